"""Keys of stages: equal to those on record, unless something that is active changes.

tests/golden/keys.json is written by `JAX_PLATFORMS=cpu python -m tests.run.test_keys`: only
together with a change of what the same settings mean, for which identity.FORMAT is raised.
"""

import dataclasses
import json
import operator
import pathlib
import tempfile

import numpy as np
import pytest

from configs import curriculum, segment
from cxr_jax.models.encoder import EncoderSettings
from cxr_jax.run import plan, segmenter, settings, workdir
from cxr_jax.run.corpora import open_sets
from cxr_jax.store.settings import setting
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.moco import MoCo
from cxr_jax.train.optim import OptimizerSettings
from cxr_jax.train.stage import StageSettings
from data_pipelines.prepared.data import open_prepared
from tests.bare_sets import write_bare

RECORD = pathlib.Path(__file__).parents[1] / 'golden' / 'keys.json'
# Case -> (argument of configs/curriculum.py, overrides).
CASES = {
    'demo': ('moco_swav_rot_relloc,preset=demo', {}),
    'twice': ('moco_rot_moco,preset=demo', {'data.region': 'lungs_gray', 'seed': 7}),
    'siim_study': ('moco_swav_rot_relloc,preset=siim_study', {'data.region': 'lungs_black'}),
    'papers': ('moco,preset=papers', {'stage.moco.task.queue_size': 'auto'}),
    'searched': ('rot,preset=demo', {
        'stage.rot.search.protocol': 'halving', 'stage.rot.search.epochs': 3,
        'stage.classify.search.protocol': 'sampled',
    }),
    'few labels': ('scratch,preset=demo', {
        'data.label_fraction': 0.1, 'stage.classify.optimizer.name': 'adamw',
        'stage.classify.optimizer.clip': 1.0, 'stage.classify.data.balance': 'class',
    }),
    'findings': ('moco,readout=findings,preset=demo', {'data.name': 'findings'}),
    'folds': ('rot,preset=demo', {'data.folds': 3}),
}  # fmt: skip


def write_sets(folder: pathlib.Path) -> pathlib.Path:
    write_bare(folder, 'synthetic_cxr', 80)
    write_bare(folder, 'siim_covid19', 256)
    write_bare(folder, 'findings', 80, exclusive=False)
    return folder


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp('bare'))


def planned(data_dir, argument: str, changes: dict):
    config = curriculum.get_config(argument)
    config.update_from_flattened_dict(changes)
    config.data.dir = str(data_dir)
    return plan.make_plan(config, open_sets(config), 1)


def keys_of(data_dir, argument: str, changes: dict) -> list[str]:
    return [f'{stage.name}-{stage.key}' for stage in planned(data_dir, argument, changes).stages]


def key_of_segmenter(data_dir, **changes) -> str:
    config = segment.get_config()
    config.update_from_flattened_dict(changes)
    corpus = open_prepared(data_dir, 'synthetic_cxr', 80).corpus('train')
    return segmenter.make_stage(*segmenter.read_config(config), corpus, 1).key


def all_keys(data_dir) -> dict:
    found = {case: keys_of(data_dir, *asked) for case, asked in CASES.items()}
    return found | {'segmenter': ['segment-' + key_of_segmenter(data_dir)]}


def test_keys_are_those_on_record(data_dir):
    assert all_keys(data_dir) == json.loads(RECORD.read_text())


def test_a_new_field_that_does_nothing_leaves_all_keys(data_dir, monkeypatch):
    """A field that a later version adds, to a task, the optimiser, the network and the run."""

    @dataclasses.dataclass(frozen=True)
    class LaterMoCo(MoCo):
        margin: float = setting(0.0, at_least=0, neutral=0.0)

    @dataclasses.dataclass(frozen=True)
    class LaterOptimizer(OptimizerSettings):
        accumulate: int = setting(1, at_least=1, neutral=1)

    @dataclasses.dataclass(frozen=True)
    class LaterStage(StageSettings):
        optimizer: OptimizerSettings = LaterOptimizer()

    @dataclasses.dataclass(frozen=True)
    class LaterEncoder(EncoderSettings):
        drop_path: float = setting(0.0, at_least=0, neutral=0.0)

    @dataclasses.dataclass(frozen=True)
    class LaterEval(settings.EvalSettings):
        flips: bool = setting(False, neutral=False)

    @dataclasses.dataclass(frozen=True)
    class LaterRun(settings.RunSettings):
        ema: float = setting(0.0, at_least=0, neutral=0.0)
        encoder: EncoderSettings = LaterEncoder()
        eval: settings.EvalSettings = LaterEval()

    asked = CASES['demo']
    before = workdir.identity_of(planned(data_dir, *asked))
    monkeypatch.setitem(TASKS, 'moco', LaterMoCo)
    for module, name, later in (
        (settings, 'StageSettings', LaterStage), (segmenter, 'StageSettings', LaterStage),
        (settings, 'RunSettings', LaterRun), (curriculum, 'RunSettings', LaterRun),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, later)
    assert all_keys(data_dir) == json.loads(RECORD.read_text())
    assert workdir.identity_of(planned(data_dir, *asked)) == before
    recorded = json.loads(RECORD.read_text())['demo']
    for field, value in (
        ('stage.moco.task.margin', 0.1), ('stage.moco.optimizer.accumulate', 2),
        ('encoder.drop_path', 0.1),
    ):  # fmt: skip
        assert keys_of(data_dir, asked[0], {field: value})[0] != recorded[0], field
    assert workdir.identity_of(planned(data_dir, asked[0], {'eval.flips': True})) != before


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('stage.moco.search.low', 0.001),
        ('stage.moco.search.batch_sizes', (16, 32)),
        ('stage.moco.optimizer.trust', 0.1),
        ('stage.moco.optimizer.trust_1d', False),
        ('stage.moco.optimizer.milestones', (0.5,)),
        ('stage.moco.optimizer.step_factor', 0.5),
        ('stage.moco.optimizer.b1', 0.5),
        ('stage.moco.task.augment.brightness', 0.7),
        ('stage.moco.task.hidden', '128'),  # what auto stands for
        ('stage.moco.task.queue_size', '512'),
        ('stage.moco.checkpoint_epochs', 3.0),
        ('stage.moco.data.sets', ('synthetic_cxr',)),  # what it reads anyway
        ('data.pretext', ('synthetic_cxr',)),
        ('data.on_device', 0.5),
        ('eval.batch_size', 8),
        ('eval.resamples', 10),
        ('encoder.dtype', 'float32'),
        ('encoder.remat', True),
        ('keep', 'all'),
        ('store', 'elsewhere'),
        ('preset', 'papers'),
        ('monitor.health_looks', 0),
        ('monitor.probe_epochs', 3),
        ('monitor.on_collapse', 'stop'),
        ('stage.moco.early_stop.patience', 2),
    ],
)
def test_what_does_nothing_changes_no_key(data_dir, field, value):
    changes = {'stage.moco.task.augment.jitter': 0.0}
    config = curriculum.get_config('moco_rot,preset=demo')
    assert operator.attrgetter(field)(config) != value
    before = keys_of(data_dir, 'moco_rot,preset=demo', changes)
    assert keys_of(data_dir, 'moco_rot,preset=demo', changes | {field: value}) == before


@pytest.mark.parametrize(
    ('field', 'value', 'others'),
    [
        ('stage.moco.optimizer.trust', 0.1, {'stage.moco.optimizer.name': 'lars'}),
        ('stage.moco.optimizer.milestones', (0.5,), {'stage.moco.optimizer.schedule': 'step'}),
        ('stage.moco.optimizer.b1', 0.5, {'stage.moco.optimizer.name': 'adamw'}),
        ('stage.moco.search.low', 0.001, {'stage.moco.search.protocol': 'thesis',
                                          'stage.moco.search.epochs': 2}),
        ('stage.moco.task.augment.brightness', 0.7, {'stage.moco.task.augment.jitter': 0.5}),
        ('stage.moco.optimizer.lr', 0.5, {}),
        ('stage.moco.data.fraction', 0.5, {}),
        ('stage.moco.data.balance', 'patient', {}),
        ('encoder.width', 8, {}),
        ('encoder.dtype', 'bfloat16', {}),
        ('data.region', 'lungs_black', {}),
        ('seed', 1, {}),
    ],
)  # fmt: skip
def test_what_does_something_changes_the_keys_from_there_on(data_dir, field, value, others):
    before = keys_of(data_dir, 'rot_moco,preset=demo', others)
    after = keys_of(data_dir, 'rot_moco,preset=demo', others | {field: value})
    same = [a == b for a, b in zip(before, after, strict=True)]
    assert same == ([True, False, False] if field.startswith('stage.moco') else [False] * 3)


def test_the_found_rate_is_no_part_of_a_searched_stage(data_dir):
    search = {'stage.rot.search.protocol': 'halving', 'stage.rot.search.epochs': 3}
    before = keys_of(data_dir, 'rot,preset=demo', search)
    assert keys_of(data_dir, 'rot,preset=demo', search | {'stage.rot.optimizer.lr': 9.0}) == before


def test_labels_are_part_of_a_readout_alone(data_dir):
    before = keys_of(data_dir, 'moco,preset=demo', {})
    for changes in ({'data.label_fraction': 0.5}, {'data.classes': ('negative', 'typical')}):
        after = keys_of(data_dir, 'moco,preset=demo', changes)
        assert after[0] == before[0] and after[1] != before[1]


def test_images_and_labels_by_their_content(data_dir):
    """Not by what a set or a folder is called, by pseudonyms or by its card."""
    config = curriculum.get_config('moco,preset=demo')
    config.data.dir = str(data_dir)
    ((name, prepared),) = open_sets(config).items()
    index, place = prepared.index, np.flatnonzero(prepared.index.split == 'train')[0]

    def keys(columns=None, **changes):
        changed = dataclasses.replace(
            prepared, index=dataclasses.replace(index, **(columns or {})), **changes
        )
        return [stage.key for stage in plan.make_plan(config, {name: changed}, 1).stages]

    def changed_at(values, value):
        values = values.copy()
        values[place] = value
        return values

    before = keys()
    assert keys({'source': np.full(len(index), 'elsewhere')}, fingerprint='0' * 64) == before
    pixels = keys({'content': changed_at(index.content, '0' * 32)})
    assert not {*pixels} & {*before}
    labels = keys({'labels': changed_at(index.labels, np.roll(index.labels[place], 1))})
    assert labels[0] == before[0] and labels[1] != before[1]


def test_a_weights_file_by_its_content(data_dir, tmp_path):
    """Wherever it lies; later stages have it through their parents."""
    for name, text in (('a', 'one'), ('b', 'one'), ('c', 'two')):
        (tmp_path / name).write_text(text)
    first, moved, other, none = (
        keys_of(data_dir, 'moco,preset=demo', {'encoder.weights': path})
        for path in (*(str(tmp_path / name) for name in 'abc'), '')
    )
    assert first == moved
    assert not {*first} & {*other} and not {*first} & {*none}


def test_the_segmenter_too(data_dir):
    before = key_of_segmenter(data_dir)
    for field, value in (('optimizer.trust', 0.1), ('optimizer.milestones', (0.5,)),
                         ('checkpoint_epochs', 2.0)):  # fmt: skip
        assert key_of_segmenter(data_dir, **{f'stage.segment.{field}': value}) == before
    assert key_of_segmenter(data_dir, **{'stage.segment.optimizer.name': 'adamw'}) != before


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        found = all_keys(write_sets(pathlib.Path(folder)))
    RECORD.write_text(json.dumps(found, indent=1) + '\n')
