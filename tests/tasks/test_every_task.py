"""What holds for every task of the registries, a new one included."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cxr_jax.evaluation import alarms
from cxr_jax.evaluation.health import health
from cxr_jax.run.settings import read_stage, stage_config
from cxr_jax.store import trees
from cxr_jax.store.identity import active
from cxr_jax.store.settings import from_settings, to_settings
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.tasks.swav import SwAV
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError
from tests import exactness
from tests.tasks.one_step import (
    BATCH,
    NAMES,
    SIZE,
    abstract_after_update,
    facts,
    first_state,
    make_views,
    random_batch,
    run_loss,
    tiny_encoder,
)

EVERYONE = TASKS | READOUTS
# What is too large for 64 images of 24 pixels, even in a task's settings for small data.
SETTINGS = {
    'moco': {'queue_size': 16, 'features': 5, 'key_groups': 4},
    'swav': {
        'queue_size': 0, 'prototypes': 4, 'hidden': 'auto', 'features': 5, 'small_size': 12,
        'small_crops': 2,
    },
    'odc': {'clusters': 4, 'hidden': 16, 'features': 16},
    'relloc': {'dropout': 0.25},
    'jigsaw': {'permutations': 6, 'hidden': 8},
    'lejepa': {'projector': (8, 5), 'slices': 4, 'small_size': 12, 'small_crops': 2},
    'genesis': {'width': 2},
}  # fmt: skip


@functools.cache
def resolved(name):
    config = stage_config(name)
    config.update_from_flattened_dict(EVERYONE[name].small)
    small = read_stage(name, config.to_dict()).task
    task = dataclasses.replace(small, image_size=SIZE, **SETTINGS.get(name, {}))
    return task.resolve(facts())[0]


@functools.cache
def stepped(name, devices=1):
    """(task, state before, result) of one step."""
    task, encoder = resolved(name), tiny_encoder()
    state = first_state(task, encoder)
    views = make_views(task, random_batch(task))
    return task, state, run_loss(task, encoder, state, views, devices)


def test_names_can_be_joined_and_numbered():
    assert not TASKS.keys() & READOUTS.keys()
    for name in EVERYONE:
        assert name.isidentifier() and '_' not in name and not name[-1].isdigit()


@pytest.mark.parametrize('name', EVERYONE)
def test_views_are_made_of_what_the_task_needs(name):
    """Nothing else is read, and all of it is."""

    class Example(dict):
        read = set()

        def __getitem__(self, field):
            self.read.add(field)
            return super().__getitem__(field)

    task = resolved(name)
    batch = random_batch(task)
    example = Example({field: values[0] for field, values in batch.items()})
    example['image'] = example['image'] / np.float32(255)
    task.views(jax.random.key(0), example)
    assert example.read == {'image', *task.needs}


@pytest.mark.parametrize('name', EVERYONE)
def test_parts(name):
    """Those it leaves exist, each has batch statistics, and the gradient reaches every one, but for
    those that never move."""
    task, state, result = stepped(name)
    assert 'encoder' in task.takes and 'encoder' in task.leaves
    assert {*task.leaves, *task.takes, *task.frozen(facts())} <= state.params.keys()
    assert jax.tree.structure(result.gradients) == jax.tree.structure(state.params)
    still = {part for part, first in task.frozen(facts()).items() if first is None}
    assert task.trains == (still != state.params.keys())
    for part, gradients in result.gradients.items():
        reached = max(abs(leaf).max() for leaf in jax.tree.leaves(gradients)) > 0
        assert reached == (part not in still), part
    for found, expected in ((result.batch_stats, state.batch_stats), (result.extra, state.extra)):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert state.batch_stats.keys() == state.params.keys()
    after = abstract_after_update(task, state)
    assert jax.tree.structure(after) == jax.tree.structure((state.params, state.extra))


@pytest.mark.parametrize('name', EVERYONE)
def test_embeddings_tell_the_images_apart(name):
    _, _, result = stepped(name)
    assert result.embeddings
    for view, embeddings in result.embeddings.items():
        assert embeddings.shape[:1] == (BATCH,) and embeddings.ndim == 2, view
        assert embeddings.dtype == np.float32 and np.isfinite(embeddings).all(), view
        apart = np.linalg.norm(embeddings[:, None] - embeddings, axis=-1)
        assert (apart + np.eye(BATCH)).min() > 0, view


def constant(tree):
    """An encoder's parameters that leave nothing but the shifts of the last norm."""

    def filled(path, leaf):
        return np.full_like(leaf, trees.name_of(path).endswith('bias'))

    return jax.tree_util.tree_map_with_path(filled, tree)


@pytest.mark.parametrize('name', EVERYONE)
def test_a_constant_encoder_is_called_within_a_fifth_of_the_run(name):
    """And one that is not trained yet, whose images look much alike, is not."""
    task, state, result = stepped(name)
    extra = dict(state.extra)
    if 'encoder' in extra.get('teacher', {}):
        teacher = extra['teacher']
        extra['teacher'] = teacher | {'encoder': constant(teacher['encoder'])}
    params = state.params | {'encoder': constant(state.params['encoder'])}
    planted = type(state)(**(vars(state) | {'params': params, 'extra': extra}))
    views = make_views(task, random_batch(task))
    collapsed = run_loss(task, tiny_encoder(), planted, views)
    for seen, expected in ((result, set()), (collapsed, {'constant'})):
        rows, looks = [], health(seen.embeddings, {})
        for step in (1, 5, 10, 15, 20):
            rows.append({'step': step, 'loss': seen.loss} | looks)
            rows[-1]['alarms'] = alarms.judge(rows, 100, task.chance_loss())
        assert set(rows[-1]['alarms']) == expected


@pytest.mark.parametrize('name', [name for name in EVERYONE if name not in exactness.CASES])
def test_one_and_four_devices_see_the_same(name):
    """The others do through a whole stage: tests/run/test_devices.py."""
    one, four = (vars(stepped(name, devices)[2]) for devices in (1, 4))
    assert np.isfinite(one['loss'])
    for field, expected in one.items():
        expected, found = jax.tree.leaves(expected), jax.tree.leaves(four[field])
        # What is zero but for rounding, such as a bias before batch norm, has no digits to compare.
        scale = max((abs(leaf).max(initial=0) for leaf in expected), default=0)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * scale, err_msg=field)


@pytest.mark.parametrize('name', EVERYONE)
def test_chance_is_the_loss_of_a_uniform_model(name):
    """All weights behind the encoder zero: no similarity, class or prototype is preferred."""
    task, state, _ = stepped(name)
    if task.chance_loss() is None:
        pytest.skip('this loss has no chance level')
    for part in state.params.keys() - {'encoder'}:
        state = first_state_with(state, part, jax.tree.map(np.zeros_like, state.params[part]))
    views = make_views(task, random_batch(task))
    result = run_loss(task, tiny_encoder(), state, views)
    assert result.loss == pytest.approx(task.chance_loss(), rel=1e-5)


def first_state_with(state, part, params):
    extra = dict(state.extra)
    if part in extra.get('teacher', {}):
        extra['teacher'] = extra['teacher'] | {part: params}
    changed = {'params': state.params | {part: params}, 'extra': extra}
    return type(state)(**(vars(state) | changed))


@pytest.mark.parametrize('name', EVERYONE)
def test_settings_and_back(name):
    task = EVERYONE[name]()
    assert from_settings(task, to_settings(task), f'stage.{name}.task') == task


@pytest.mark.parametrize('name', READOUTS)
def test_a_readout_is_linear_in_the_pooled_features(name):
    """What activation maps show adds up to the logits."""
    task, state, result = stepped(name)
    if task.evidence(state.params) is None:
        assert task.no_maps.endswith('.')
        pytest.skip(task.no_maps)
    assert not task.no_maps
    rng = np.random.default_rng(0)
    head = {'kernel': rng.normal(size=(6, len(NAMES))), 'bias': rng.normal(size=len(NAMES))}
    head = {leaf: values.astype(np.float32) for leaf, values in head.items()}
    params = state.params | {'head': {'linear': head}}
    encoder = tiny_encoder()
    images = rng.random((BATCH, SIZE, SIZE, 1), np.float32)
    features = encoder(params['encoder'], state.batch_stats['encoder'], images, train=False)
    logits = np.asarray(task.logits(params, features))
    share = np.asarray(features.last) @ np.asarray(task.evidence(params))
    np.testing.assert_allclose(logits, share.mean((1, 2)) + head['bias'], rtol=1e-4, atol=1e-5)
    scores = np.asarray(task.scores(logits))
    odds = np.exp(logits.astype(float))
    expected = odds / (odds.sum(1, keepdims=True) if task.exclusive else 1 + odds)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.parametrize('name', READOUTS)
def test_a_readout_without_labels_is_refused(name):
    with pytest.raises(UserError, match='no labels'):
        READOUTS[name]().resolve(facts(names=()))


@pytest.mark.parametrize(
    ('name', 'field', 'value'),
    [
        *((name, 'image_size', 0) for name in EVERYONE),
        ('moco', 'temperature', 0.0),
        ('moco', 'momentum', 1.5),
        ('moco', 'key_groups', 0),
        ('moco', 'hidden', '0'),
        ('swav', 'prototypes', '1'),
        ('swav', 'epsilon', float('nan')),
        ('swav', 'iterations', 0),
        ('swav', 'small_scale', (0.0, 0.1)),
        ('relloc', 'jitter', 1.0),
        ('relloc', 'dropout', 1.0),
        ('relloc', 'short_side', 0.9),
        ('lejepa', 'lambd', 1.5),
        ('lejepa', 'projector', (8, 0)),
        ('genesis', 'image_size', 15),
        ('genesis', 'norm', 'layer'),
        ('rot', 'augment', {'crop_scale': (0.5, 9.0)}),
        ('classify', 'augment', {'flip': 7.0}),
    ],
)
def test_values_out_of_range_are_refused(name, field, value):
    with pytest.raises(UserError, match=f'--config.stage.x.task.{field}'):
        from_settings(EVERYONE[name](), {field: value}, 'stage.x.task')


@pytest.mark.parametrize(
    ('settings', 'others'),
    [
        (SwAV(queue_size=0, queue_start_epoch=1.0), SwAV(queue_size=0, queue_start_epoch=2.0)),
        (SwAV(small_crops=0, small_size=9), SwAV(small_crops=0, small_scale=(0.1, 0.2))),
        (Augmentation(brightness=0.1, contrast=0.1), Augmentation(blur_sigma=(1.0, 2.0))),
    ],
)
def test_fields_without_effect_change_no_view_and_no_key(settings, others):
    assert settings != others and active(settings) == active(others)
    image = np.random.default_rng(0).random((SIZE, SIZE, 1), np.float32)

    def views(one):
        if isinstance(one, Augmentation):
            return one(jax.random.key(0), image, 12)
        return one.views(jax.random.key(0), {'image': image})

    for a, b in zip(*(jax.tree.leaves(views(one)) for one in (settings, others)), strict=True):
        np.testing.assert_array_equal(a, b)
