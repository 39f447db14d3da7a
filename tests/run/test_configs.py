"""The configs: what an argument means, what a preset sets, and the way to tasks and back."""

import dataclasses
import math
import operator
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import presets
from configs.curriculum import get_config, parse
from cxr_jax.run.settings import kind_of, read_config, stage_config
from cxr_jax.store.settings import from_settings, to_settings
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.tasks.base import Facts
from data_pipelines.errors import UserError

EVERY_TASK = TASKS | READOUTS
EVERYTHING = '_'.join(TASKS)


def sections(config, path='config'):
    yield path, config
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from sections(value, f'{path}.{name}')


@pytest.mark.parametrize(
    ('argument', 'stages', 'readout', 'preset'),
    [
        ('moco_swav_rot', ('moco', 'swav', 'rot'), 'classify', 'auto'),
        ('rot_moco,preset=demo', ('rot', 'moco'), 'classify', 'demo'),
        ('swav,preset=papers', ('swav',), 'classify', 'papers'),
        ('scratch', (), 'classify', 'auto'),
        ('scratch,preset=siim_study', (), 'classify', 'siim_study'),
        ('moco_moco_rot_moco', ('moco', 'moco2', 'rot', 'moco3'), 'classify', 'auto'),
        ('rot,readout=none', ('rot',), 'none', 'auto'),
        ('rot,preset=demo,readout=findings', ('rot',), 'findings', 'demo'),
    ],
)
def test_arguments(argument, stages, readout, preset):
    assert parse(argument) == (stages, {'preset': preset, 'readout': readout})
    config = get_config(argument)
    assert (config.curriculum, config.readout, config.preset) == (stages, readout, preset)
    assert set(config.stage) == {*stages, readout} - {'none'}
    assert list(read_config(config).stages) == [*stages, *([readout] if readout != 'none' else [])]


@pytest.mark.parametrize(
    'argument',
    [
        '', ',preset=demo', 'moco_', 'classify', 'findings', 'moco2', 'rot,demo', 'rot,preset=',
        'rot,p=demo', 'rot,preset=reference', 'rot,readout=rot', 'rot,readout=',
    ],
)  # fmt: skip
def test_arguments_that_mean_nothing(argument):
    with pytest.raises(UserError):
        get_config(argument)


def test_thesis_is_another_name_of_the_siim_study():
    study, same = (get_config(f'{EVERYTHING},preset={name}') for name in ('siim_study', 'thesis'))
    assert study == same


@pytest.mark.parametrize('preset', ['auto', *presets.RECIPES])
def test_every_section_is_locked(preset):
    config = get_config(f'{EVERYTHING}_moco,preset={preset}')
    for path, section in sections(config):
        assert section.is_locked, path
        with pytest.raises(AttributeError):
            section.misspelt = 1
    with pytest.raises(TypeError):
        config.stage.rot.epochs = 'many'


@pytest.mark.parametrize('readout', READOUTS)
@pytest.mark.parametrize('recipe', presets.RECIPES)
def test_presets_set_every_field_they_name(recipe, readout):
    """A field or stage that does not exist would otherwise be left out silently. What is said of a
    task holds for every stage of it, what is said of a readout for each kind."""
    config = get_config(f'{EVERYTHING}_moco_swav,readout={readout},preset={recipe}')
    expected, kinds = {}, TASKS | READOUTS
    for name in config.stage:
        kind, group = kind_of(name), 'readout' if name == readout else 'pretext'
        for layer in presets.layers(recipe, kinds[kind].small):
            # In a layer, what is said of a task is over what is said of all.
            for section in (group, 'own', kind):
                for path, value in layer.items():
                    if path.startswith(f'stage.{section}.'):
                        field = path.removeprefix(f'stage.{section}.')
                        expected[f'stage.{name}.{field}'] = value
    for layer in presets.layers(recipe, {}):
        for path, value in layer.items():
            assert not path.startswith('stage.') or path.split('.')[1] in (
                *kinds, 'pretext', 'readout',
            )  # fmt: skip
            expected |= {} if path.startswith('stage.') else {path: value}
    assert expected or recipe == 'papers'
    for path, value in expected.items():
        found = operator.attrgetter(path)(config)
        assert found == value and type(found) is type(value), path


def test_stages_are_configured_alike_in_every_curriculum():
    """Otherwise curricula could not share them."""
    together = get_config(f'{EVERYTHING},preset=siim_study').stage
    for name in TASKS:
        alone = get_config(f'{name},preset=siim_study').stage
        assert alone[name] == together[name] and alone.classify == together.classify
        bare = get_config(f'{name},readout=none,preset=siim_study').stage
        assert bare[name] == together[name]


@pytest.mark.parametrize('name', EVERY_TASK)
def test_papers_is_the_methods_own_settings(name):
    """Tasks: the dataclass defaults. Optimisers: each task's recipe, as the papers' code has it."""
    readout = name if name in READOUTS else 'classify'
    stage = get_config(f'{EVERYTHING},readout={readout},preset=papers').stage[name]
    assert stage.to_dict() == stage_config(name).to_dict()
    assert stage.task.to_dict() == to_settings(EVERY_TASK[name]())
    optimizer = stage.optimizer
    found = (
        stage.batch_size, stage.epochs, optimizer.name, optimizer.lr, optimizer.weight_decay,
        optimizer.head_weight_decay, optimizer.schedule, optimizer.warmup_epochs,
    )  # fmt: skip
    expected = {
        'rot': (128, 70, 'sgd', 0.2, 1e-4, 1e-4, 'step', 5.0),
        'relloc': (512, 70, 'sgd', 0.2, 1e-4, 5e-4, 'step', 5.0),
        'moco': (256, 200, 'sgd', 0.03, 1e-4, 1e-4, 'cosine', 0.0),
        'swav': (256, 200, 'larc', 0.6, 1e-6, 1e-6, 'cosine', 0.0),
        'barlow': (2048, 1000, 'lars', 1.6, 1e-6, 1e-6, 'cosine', 10.0),
        'byol': (4096, 200, 'lars', 4.8, 1e-6, 1e-6, 'cosine', 10.0),
        'simsiam': (256, 100, 'sgd', 0.05, 1e-4, 1e-4, 'cosine', 0.0),
        'simclr': (256, 200, 'lars', 0.3, 1e-6, 1e-6, 'cosine', 10.0),
        'lejepa': (256, 100, 'adamw', 5e-4, 5e-4, 5e-4, 'cosine', 1.0),
        'genesis': (8, 200, 'sgd', 1.0, 0.0, 0.0, 'step', 0.0),
        'odc': (512, 440, 'sgd', 0.06, 1e-5, 1e-5, 'step', 0.0),
        'jigsaw': (256, 105, 'sgd', 0.1, 1e-4, 1e-4, 'step', 5.0),
        'classify': (256, 90, 'sgd', 0.1, 1e-4, 1e-4, 'step', 0.0),
        'findings': (256, 90, 'sgd', 0.1, 1e-4, 1e-4, 'step', 0.0),
        'probe': (256, 100, 'sgd', 1.0, 0.0, 0.0, 'cosine', 0.0),
        'knn': (256, 100, 'sgd', 0.1, 1e-4, 1e-4, 'cosine', 0.0),  # none of it does anything
    }
    assert found == expected.get(name, found)
    assert optimizer.momentum == 0.9 and not optimizer.nesterov


def test_rates_drop_where_the_methods_say():
    stage = get_config('moco_swav_rot,preset=papers').stage
    assert [m * stage.rot.epochs for m in stage.rot.optimizer.milestones] == [30, 50]
    assert [m * 90 for m in stage.classify.optimizer.milestones] == [30, 60]
    assert math.isclose(stage.swav.optimizer.final_factor * stage.swav.optimizer.lr, 6e-4)
    assert stage.moco.optimizer.by_epoch and not stage.swav.optimizer.by_epoch


def test_siim_study_has_the_values_of_the_reference_study():
    """What it does not state is constant or the method's own."""
    config = get_config('moco_swav_rot_relloc,preset=siim_study')
    stages = {
        name: (s.batch_size, s.epochs, s.optimizer.name, s.optimizer.momentum, s.optimizer.schedule)
        for name, s in config.stage.items()
    }
    assert stages == {
        'moco': (32, 30, 'sgd', 0.9, 'constant'),
        'swav': (8, 30, 'larc', 0.9, 'constant'),
        'rot': (16, 30, 'sgd', 0.9, 'constant'),
        'relloc': (32, 30, 'sgd', 0.9, 'constant'),
        'classify': (64, 150, 'sgd', 0.9, 'constant'),
    }
    assert all(config.stage[n].optimizer.weight_decay == 1e-4 for n in ('moco', 'rot', 'classify'))
    relloc = config.stage.relloc
    assert relloc.optimizer.weight_decay == relloc.optimizer.head_weight_decay == 1e-4
    assert relloc.task.flip == 0.5
    assert config.stage.classify.optimizer.lr == 0.01
    # The queue of 64 is eight batches.
    assert config.stage.swav.task.queue_size == '64' == str(8 * config.stage.swav.batch_size)
    assert (config.encoder.name, config.encoder.width) == ('resnet50', 64)
    assert config.data.name == 'siim_covid19' and config.data.region == 'full'
    for name in ('moco', 'swav'):  # crop, flip and rotation, nothing else
        augment = config.stage[name].task.augment
        assert augment.flip > 0 and augment.rotation > 0
        assert augment.jitter == augment.blur == 0
    for name in ('rot', 'classify'):  # crop and flip
        augment = config.stage[name].task.augment
        assert augment.flip > 0 and augment.rotation == augment.jitter == augment.blur == 0


@pytest.mark.parametrize('name', EVERY_TASK)
def test_tasks_survive_the_way_through_a_config(name):
    default = EVERY_TASK[name]()
    changed = dataclasses.replace(default, image_size=96)
    if hasattr(default, 'augment'):
        augment = dataclasses.replace(default.augment, flip=0.25, crop_scale=(0.3, 0.7))
        changed = dataclasses.replace(changed, augment=augment)
    facts = Facts(
        images=70000, batch_size=256, steps_per_epoch=273, total_steps=273, devices=1,
        feature_width=512, names=('a', 'b', 'c'),
    )  # fmt: skip
    resolved, _ = changed.resolve(facts)
    # Derived fields follow from the others and are not settings.
    derived = {f.name: f.default for f in dataclasses.fields(default) if f.metadata.get('derived')}
    for task in (default, changed, dataclasses.replace(resolved, **derived)):
        settings = ConfigDict(to_settings(task))
        assert from_settings(default, settings, '') == task
        assert not derived.keys() & settings.keys()
    assert 'auto' not in to_settings(resolved).values()


@pytest.mark.parametrize('name', EVERY_TASK)
def test_defaults_and_recipes_are_within_their_ranges(name):
    stage = stage_config(name)
    default = dataclasses.replace(read_config(get_config('moco')).stages['moco'],
                                  task=EVERY_TASK[name]())  # fmt: skip
    assert to_settings(from_settings(default, stage.to_dict(), '')) == stage.to_dict()


@pytest.mark.parametrize(
    ('words', 'field', 'value'),
    [
        (["--config.stage.moco.data.sets=('a',)"], 'stages.moco.data.sets', ('a',)),
        (["--config.stage.moco2.data.sets=('a', 'b')"], 'stages.moco2.data.sets', ('a', 'b')),
        (['--config.stage.moco.task.queue_size=auto'], 'stages.moco.task.queue_size', 'auto'),
        (['--config.stage.moco.task.queue_size=512'], 'stages.moco.task.queue_size', 512),
        (['--config.stage.rot.search.batch_sizes=(8,9)'], 'stages.rot.search.batch_sizes', (8, 9)),
        (["--config.data.pretext=('nih14','mine')"], 'run.data.pretext', ('nih14', 'mine')),
        (['--config.stage.moco.optimizer.nesterov'], 'stages.moco.optimizer.nesterov', True),
        (['--config.data.label_fraction=0.1'], 'run.data.label_fraction', 0.1),
    ],
)  # fmt: skip
def test_flags_arrive_in_the_settings(words, field, value, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['program', *words])  # which the config's flag looks at
    values = flags.FlagValues()
    config = get_config('moco_moco_rot,preset=demo')
    holder = config_flags.DEFINE_config_dict('config', config, flag_values=values)
    values(sys.argv)
    settings = read_config(holder.value)
    for name in field.split('.'):
        settings = settings[name] if isinstance(settings, dict) else getattr(settings, name)
    assert settings == value and type(settings) is type(value)
