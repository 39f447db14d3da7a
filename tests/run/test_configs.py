"""The configs: what an argument means, what a preset sets, and the way to tasks and back."""

import dataclasses
import math

import pytest
from ml_collections import ConfigDict

from configs import presets
from configs.curriculum import get_config, parse, stage_config
from cxr_jax.store.settings import from_settings, to_settings
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.base import Facts
from data_pipelines.errors import UserError

PRETEXT = [name for name in TASKS if name != 'classify']
EVERYTHING = '_'.join(PRETEXT)


def sections(config, path='config'):
    yield path, config
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from sections(value, f'{path}.{name}')


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        ('moco_swav_rot', (('moco', 'swav', 'rot'), 'auto')),
        ('rot_moco,preset=demo', (('rot', 'moco'), 'demo')),
        ('swav,preset=reference', (('swav',), 'reference')),
        ('scratch', ((), 'auto')),
        ('scratch,preset=thesis', ((), 'thesis')),
    ],
)
def test_arguments(argument, expected):
    assert parse(argument) == expected
    config = get_config(argument)
    assert (config.curriculum, config.preset) == expected
    assert set(config.stage) == {*expected[0], 'classify'}


@pytest.mark.parametrize(
    'argument',
    ['', ',preset=demo', 'moco_', 'classify', 'rot,demo', 'rot,preset=', 'rot,p=thesis'],
)
def test_arguments_that_mean_nothing(argument):
    with pytest.raises(UserError):
        get_config(argument)


@pytest.mark.parametrize('preset', ['auto', *presets.RECIPES])
def test_every_section_is_locked(preset):
    config = get_config(f'{EVERYTHING},preset={preset}')
    for path, section in sections(config):
        assert section.is_locked, path
        with pytest.raises(AttributeError):
            section.misspelt = 1
    with pytest.raises(TypeError):
        config.stage.rot.epochs = 'many'


@pytest.mark.parametrize('recipe', presets.RECIPES)
def test_presets_set_every_field_they_name(recipe):
    """A field or stage that does not exist would otherwise be left out silently."""
    config = get_config(f'{EVERYTHING},preset={recipe}')
    for path, value in presets.RECIPES[recipe].items():
        found = config
        for name in path.split('.'):
            found = found[name]
        assert found == value and type(found) is type(value), path


def test_stages_are_configured_alike_in_every_curriculum():
    """Otherwise curricula could not share them."""
    together = get_config(f'{EVERYTHING},preset=thesis').stage
    for name in PRETEXT:
        alone = get_config(f'{name},preset=thesis').stage
        assert alone[name] == together[name] and alone.classify == together.classify


@pytest.mark.parametrize('name', TASKS)
def test_reference_is_the_methods_own_settings(name):
    """Tasks: the dataclass defaults. Optimisers: facts 13.4 (swav: the official script's step)."""
    stage = get_config(f'{EVERYTHING},preset=reference').stage[name]
    assert stage.to_dict() == stage_config(name).to_dict()
    assert stage.task.to_dict() == to_settings(TASKS[name]())
    optimizer = stage.optimizer
    found = (
        stage.batch_size, stage.epochs, optimizer.name, optimizer.lr, optimizer.weight_decay,
        optimizer.head_weight_decay, optimizer.schedule, optimizer.warmup_epochs,
    )  # fmt: skip
    assert found == {
        'rot': (128, 70, 'sgd', 0.2, 1e-4, 1e-4, 'step', 5.0),
        'relloc': (512, 70, 'sgd', 0.2, 1e-4, 5e-4, 'step', 5.0),
        'moco': (256, 200, 'sgd', 0.03, 1e-4, 1e-4, 'cosine', 0.0),
        'swav': (256, 200, 'lars', 0.6, 1e-6, 1e-6, 'cosine', 0.0),
        'classify': (256, 90, 'sgd', 0.1, 1e-4, 1e-4, 'step', 0.0),
    }[name]
    assert optimizer.momentum == 0.9 and not optimizer.nesterov


def test_reference_rates_drop_where_the_methods_say():
    stage = get_config('moco_swav_rot,preset=reference').stage
    assert [m * stage.rot.epochs for m in stage.rot.optimizer.milestones] == [30, 50]
    assert [m * 90 for m in stage.classify.optimizer.milestones] == [30, 60]
    assert math.isclose(stage.swav.optimizer.final_factor * stage.swav.optimizer.lr, 6e-4)
    assert stage.moco.optimizer.by_epoch and not stage.swav.optimizer.by_epoch


def test_thesis_has_the_values_of_the_thesis():
    """Reference facts, section 0.1; what it does not state is constant or the method's own."""
    config = get_config('moco_swav_rot_relloc,preset=thesis')
    stages = {
        name: (s.batch_size, s.epochs, s.optimizer.name, s.optimizer.momentum, s.optimizer.schedule)
        for name, s in config.stage.items()
    }
    assert stages == {
        'moco': (32, 30, 'sgd', 0.9, 'constant'),
        'swav': (8, 30, 'lars', 0.9, 'constant'),
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
    assert (config.backbone.depth, config.backbone.width) == (50, 64)
    assert config.data.name == 'siim_covid19' and config.data.region == 'full'
    for name in ('moco', 'swav'):  # crop, flip and rotation, nothing else
        augment = config.stage[name].task.augment
        assert augment.flip > 0 and augment.rotation > 0
        assert augment.jitter == augment.blur == 0
    for name in ('rot', 'classify'):  # crop and flip
        augment = config.stage[name].task.augment
        assert augment.flip > 0 and augment.rotation == augment.jitter == augment.blur == 0


@pytest.mark.parametrize('name', TASKS)
def test_tasks_survive_the_way_through_a_config(name):
    default = TASKS[name]()
    changed = dataclasses.replace(default, image_size=96)
    if hasattr(default, 'augment'):
        augment = dataclasses.replace(default.augment, flip=0.25, crop_scale=(0.3, 0.7))
        changed = dataclasses.replace(changed, augment=augment)
    facts = Facts(
        images=70000, batch_size=256, steps_per_epoch=273, devices=1,
        feature_width=512, classes=('a', 'b', 'c'),
    )  # fmt: skip
    resolved, _ = changed.resolve(facts)
    # Derived fields follow from the others and are not settings.
    derived = {f.name: f.default for f in dataclasses.fields(default) if f.metadata.get('derived')}
    for task in (default, changed, dataclasses.replace(resolved, **derived)):
        settings = ConfigDict(to_settings(task))
        assert from_settings(default, settings, '') == task
        assert not derived.keys() & settings.keys()
    assert 'auto' not in to_settings(resolved).values()
