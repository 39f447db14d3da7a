"""Every mistake ends in one clear paragraph on stderr and exit code 2, before anything is trained.

The command line runs in this process, on prepared sets without records.
"""

import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from configs.curriculum import get_config
from cxr_jax.run import curriculum
from data_pipelines.prepared.data import CARD_FORMAT
from tests.bare_sets import write_bare
from tests.run.conftest import Stop, stop

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'curriculum.py'
DEMO = f'{CONFIG}:moco_rot,preset=demo'
SIZE = get_config('moco_rot,preset=demo').data.size
HERE = '--config.data.dir=prepared'


def assert_refused(outcome, *words):
    assert outcome.code == 2
    assert outcome.err.count('\n\n') == 0 and 'Traceback' not in outcome.err + outcome.out
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ([], ['No config was named', '--config configs/curriculum.py:']),
        (['--config.seed=3'], ['No config was named']),
        (['--config', 'nope.py:rot'], ["no config file 'nope.py'"]),
        (['--config', 'moco_rot'], ["no config file 'moco_rot'", 'configs/curriculum.py:']),
        (['--config', CONFIG.with_name('presets.py')], ['has no get_config()']),
        (['--config', CONFIG], ['No tasks were named', 'curriculum.py:moco_swav_rot']),
        (['--config', f'{CONFIG}:moco_mocco'], ["'mocco'", 'Known tasks: moco, swav, barlow']),
        (['--config', f'{CONFIG}:rot_classify'], ["'classify'", 'The readout follows']),
        (
            ['--config', f'{CONFIG}:rot,readout=segment'],
            ['classify, findings, probe, knn, none'],
        ),
        (['--config', f'{CONFIG}:scratch,readout=none', HERE], ['no stage', 'readout=classify']),
        (
            ['--config', f'{CONFIG}:rot,preset=tiny'],
            ['auto, siim_study, small, demo, papers, thesis'],
        ),
        (['--config', f'{CONFIG}:rot,seed=1'], ["'seed=1'", 'preset= one of']),
        (['--config', DEMO, 'stray'], ["'stray'", 'flags']),
        (['--confg', DEMO], ["'confg'", 'config']),
        (['--config.seed=1', '--config', DEMO], ['--config.seed=1', 'before']),
    ],
)
def test_the_command_line_itself(command, words, expected):
    assert_refused(command(*words), *expected)


@pytest.mark.parametrize(
    ('override', 'expected'),
    [
        ('stage.moco.epoch=5', ["no 'epoch'", 'Did you mean --config.stage.moco.epochs?']),
        ('stage.swav.epochs=5', ["config.stage has no 'swav'", 'classify, moco, rot']),
        ('epochs=5', ["config has no 'epochs'", 'stage']),
        ('seed.x=5', ["config.seed has no 'x'"]),
        ('stage.moco=5', ['--config.stage.moco is a section', 'epochs']),
        ('preset=demo', ['write it into the argument', ',preset=demo']),
        ('curriculum=rot', ['write it into the argument']),
        ('readout=none', ['write it into the argument']),
        ('stage.rot.data=5', ['--config.stage.rot.data is a section', 'sets']),
        ('stage.moco.epochs', ['Missing value', 'config.stage.moco.epochs']),
        ('stage.moco.epochs=many', ['epochs=many', 'same kind as the present ']),
        ('stage.moco.epochs=2.5', ['epochs=2.5', 'same kind as the present ']),
        ('stage.moco.optimizer.nesterov=perhaps', ['nesterov=perhaps', 'the present False']),
        ('stage.moco.optimizer.milestones=(1,', ['milestones=(1,', 'the present (']),
        ('stage.moco.optimizer.milestones=early', ['must be numbers', '(0.6, 0.8)']),
        ('stage.moco.optimizer.name=adam', ['name=adam', 'sgd, lars, larc, adamw']),
        ('stage.moco.optimizer.schedule=linear', ['schedule=linear', 'cosine, step, constant']),
        ('stage.moco.optimizer.lr=-1.0', ['optimizer.lr=-1.0', '0 or more']),
        ('stage.moco.optimizer.lr=nan', ['optimizer.lr=nan', 'finite']),
        ('stage.moco.optimizer.momentum=1.0', ['momentum=1.0', 'below 1']),
        ('stage.moco.search.protocol=grid', ['protocol=grid', 'thesis, sampled, halving']),
        ('stage.moco.search.low=1.0', ['low=1.0', 'above', 'high=0.25']),
        ('stage.rot.search.protocol=halving', ['search.epochs=20', '3 epochs']),
        ('stage.moco.data.fraction=0.0', ['data.fraction=0.0', 'above 0']),
        ('stage.moco.data.balance=sex', ['balance=sex', 'source, patient, class']),
        ('stage.moco.data.balance=class', ['balance=class', 'readout']),
        ('stage.moco.data.sets=nih14', ['prepared/nih14/', 'holds no prepared']),
        ("stage.moco.data.sets=('nih14',)", ['nih14', 'holds no prepared', 'synthetic_cxr (80)']),
        ('data.label_fraction=1.5', ['label_fraction=1.5', '1 or less']),
        ('data.label_fraction=0.001', ['larger than what it trains on', 'images of synthetic_cxr']),
        ('data.pretext_fraction=nan', ['pretext_fraction=nan']),
        ('data.uncertain=maybe', ['uncertain=maybe', 'ignore, positive, negative']),
        ('data.folds=1', ['data.folds=1', '2 or more']),
        ('data.masks=mine', ["no lung masks named 'mine'", 'cxr_jax.segment apply']),
        ("data.classes=('typical','covid')", ['covid', 'negative, typical']),
        ("data.classes=('typical',)", ['typical alone']),
        ('keep=nothing', ['keep=nothing', 'bundle, all']),
        ('stage.moco.epochs=0', ['stage.moco.epochs=0', '1 or more']),
        ('stage.moco.batch_size=0', ['stage.moco.batch_size=0', '1 or more']),
        ('stage.moco.batch_size=12', ['not a multiple of the 8 devices', 'use 8']),
        ('stage.moco.batch_size=568', ['larger than what', '560 images of synthetic', 'use 560']),
        ('eval.batch_size=12', ['eval.batch_size=12', 'not a multiple of the 8 devices']),
        ('eval.resamples=0', ['eval.resamples=0', '1 or more']),
        ('seed=-1', ['seed=-1', '0 or more']),
        ('encoder.name=resnet19', ['name=resnet19', 'resnet18, resnet34', 'densenet121']),
        ('encoder.width=0', ['encoder.width=0']),
        ('encoder.channels=2', ['channels=2', '1, 3']),
        ('encoder.dtype=float8', ['dtype=float8', 'bfloat16']),
        ('data.region=lung', ['region=lung', 'full, lungs_black, lungs_gray, background']),
        ('stage.moco.task.image_size=0', ['stage.moco.task.image_size=0']),
        ('stage.moco.task.features=-1', ['task.features=-1', '1 or more']),
        ('stage.moco.task.queue_size=lots', ['task.queue_size=lots', 'a whole number or auto']),
        ('stage.moco.task.queue_size=-64', ['task.queue_size=-64', 'a whole number or auto']),
        ('stage.moco.task.queue_size=100', ['multiple of the batch size 64', 'use 64']),
        ('stage.moco.task.queue_size=640', ['larger than the 560 training images', 'most 512']),
        ('stage.moco.task.key_groups=3', ['key_groups=3 must divide the batch size 64']),
        ('stage.rot.task.augment.crop_scale=0.5', ['augment.crop_scale=(0.5,)', '2 numbers']),
        ('stage.rot.task.augment.crop_scale=(1.0,0.5)', ['the lower one first']),
        ('stage.classify.task.outputs=3', ["no 'outputs'"]),
        ('encoder.weights=none.safetensors', ['none.safetensors', 'No such file']),
    ],
)  # fmt: skip
def test_overrides(command, tmp_path, override, expected):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    outcome = command('--config', DEMO, HERE, f'--config.{override}')
    assert_refused(outcome, *expected)


ONE_IS_MISSING = np.eye(4, dtype=np.int8)[np.arange(800) % 3 + (np.arange(800) % 3 > 0)]


@pytest.mark.parametrize(
    ('card', 'override', 'expected'),
    [
        (
            {'labels': ONE_IS_MISSING},
            'seed=0',
            ['The class typical has no image among the 560 labelled images', 'data.classes'],
        ),
        ({'names': [], 'labels': np.zeros((800, 0), np.int8)}, 'seed=0', ['has no labels']),
        (
            {'has_mask': False},
            'data.region=lungs_gray',
            ['lungs_gray needs a lung mask', '--config.data.region=full'],
        ),
        (
            {'counts': {'train': 6, 'validation': 0, 'test': 2},
             'labels': np.eye(4, dtype=np.int8)[[0, 1, 2, 3, 0, 1, 2, 3]]},
            'seed=0',
            ['6 images', 'must be 8 or more'],
        ),
        (
            {'counts': {'train': 560, 'validation': 240, 'test': 0}},
            'seed=0',
            ['The test split of', 'has no labelled image', 'readout=none'],
        ),
        (
            {'counts': {'train': 560, 'validation': 0, 'test': 240}},
            'stage.moco.search.protocol=sampled',
            ['no validation images', 'the search or the early stopping of moco', 'protocol=off'],
        ),
        (
            {'exclusive': False},
            'seed=0',
            ['several findings an image', 'readout=findings'],
        ),
        ({}, f'data.size={SIZE + 1}', [f'{SIZE + 1}px holds no prepared', f'({SIZE})']),
        ({}, 'data.name=mine', ['mine', 'holds no prepared set', 'image_folder --name mine']),
        ({}, 'data.dir=elsewhere', ['elsewhere', '--data_dir elsewhere', '--size']),
        ({'format': CARD_FORMAT + 1}, 'seed=0', ['cannot be used', 'prepare it again']),
    ],
)  # fmt: skip
def test_data_that_does_not_suit(command, tmp_path, card, override, expected):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE, **card)
    assert_refused(command('--config', DEMO, HERE, f'--config.{override}'), *expected)


def test_a_few_labels_are_enough(command, tmp_path):
    """Partly labelled data are no mistake; what cannot be learnt or tested is."""
    some = np.full((800, 4), -2, np.int8)
    some[::8] = np.eye(4, dtype=np.int8)[np.arange(100) % 4]
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE, labels=some)
    with pytest.raises(Stop):
        command('--config', DEMO, HERE)


def test_findings_need_findings(command, tmp_path):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    outcome = command('--config', f'{CONFIG}:rot,readout=findings,preset=demo', HERE)
    assert_refused(outcome, 'one class an image', 'readout=classify')


def test_weights_that_do_not_fit(command, tmp_path):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    words = ['--config', DEMO, HERE]
    pathlib.Path('text.safetensors').write_text('no weights at all')
    outcome = command(*words, '--workdir=one', '--config.encoder.weights=text.safetensors')
    assert_refused(outcome, 'text.safetensors cannot be read', 'torchvision')
    save_file({'conv1.weight': np.zeros((64, 3, 7, 7), 'f'), 'odd': np.zeros(1, 'f')}, 'w.st')
    outcome = command(*words, '--workdir=two', '--config.encoder.weights=w.st')
    assert_refused(
        outcome,
        'do not fit',
        'conv1.weight: in the file (64, 1, 7, 7), in the model (16, 1, 7, 7)',
        'layer4.1.conv2.weight: in the file missing',
        'odd: in the file (1,), not in the model',
    )


def test_workdirs_that_cannot_be_used(command, tmp_path):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    words = ['--config', DEMO, HERE]
    pathlib.Path('file').write_text('')
    for workdir, reason in (('file', 'File exists'), ('file/run', 'Not a directory')):
        outcome = command(*words, f'--workdir={workdir}')
        assert_refused(outcome, f'{workdir} cannot be used ({reason})', '--workdir')
    if not pathlib.Path('/sys/kernel').is_dir():
        pytest.skip('needs a folder in which not even the superuser may write (/sys)')
    # The superuser's error differs from everyone else's.
    assert_refused(command(*words, '--workdir=/sys/run'), '/sys/run cannot be used (')


def test_workdir_of_another_run_lists_the_differences(command, tmp_path, monkeypatch):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    words = ['--config', DEMO, HERE, '--workdir=run']
    monkeypatch.setattr(curriculum, 'announce', stop)
    with pytest.raises(Stop):
        command(*words)
    pathlib.Path('run', 'results.json').write_text('{}')
    before = {path: path.read_text() for path in pathlib.Path('run').iterdir()}
    outcome = command(*words, '--config.seed=7', '--config.stage.rot.optimizer.lr=0.5')
    assert_refused(outcome, 'run holds a run with other', 'give another --workdir', 'seed: 0, 7')
    assert 'stage.rot.optimizer.lr: 0.1, 0.5' in outcome.err and 'moco' not in outcome.err
    assert {path: path.read_text() for path in pathlib.Path('run').iterdir()} == before


def test_a_network_that_cannot_see_the_patches(command, tmp_path):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    outcome = command('--config', f'{CONFIG}:relloc,preset=demo', HERE,
                      '--config.encoder.name=densenet121')  # fmt: skip
    words = 'relloc gives the network images of 18 pixels', 'densenet121 needs 29', 'image_size'
    assert_refused(outcome, *words)
