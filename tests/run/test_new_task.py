"""A task defined here, with all that a task can have, does what every task of the registry does."""

import dataclasses
import functools
import itertools
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs.study import get_config
from cxr_jax.models.heads import unit_rows
from cxr_jax.run.monitors import MonitorSettings, monitors_of
from cxr_jax.runtime import parallel
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import trees
from cxr_jax.store.bundle import read_parts
from cxr_jax.store.settings import derived, setting
from cxr_jax.store.stages import StageDirectory
from cxr_jax.study import work
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.train import loop
from cxr_jax.train.features import corpus_features
from cxr_jax.views.geometry import resize
from data_pipelines.errors import UserError
from data_pipelines.prepared import loader
from tests import exactness, tiny

BORDERS = []  # (epoch, what features_of() gave) of every call of Groups.between


@dataclasses.dataclass(frozen=True)
class Groups(Task):
    """Draws each image to the centroid of its group; centroids and groups move between epochs."""

    number: int = setting(3, at_least=2)  # of the groups
    momentum: float = setting(0.5, at_least=0, at_most=1)  # of the memory
    images: int = derived(0)

    needs: ClassVar[tuple[str, ...]] = ('row',)
    takes: ClassVar[tuple[str, ...]] = ('encoder', 'centroids')
    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'centroids')
    recipe: ClassVar[dict] = {'optimizer.lr': 0.02}
    rules: ClassVar[dict[str, dict]] = {'centroids': {'momentum': False, 'scheduled': False}}
    by_image: ClassVar[tuple[str, ...]] = ('memory', 'groups')

    def resolve(self, facts):
        return dataclasses.replace(self, images=facts.images), {}

    def views(self, key, example):
        noise = 0.1 * jax.random.normal(key, example['image'].shape)
        return {
            'image': resize(example['image'] + noise, self.image_size),
            'row': example['row'],
        }

    def init(self, key, encoder, parts):
        width = encoder.feature_width
        rows = unit_rows(jax.random.normal(key, (self.number, width)))
        extra = {
            'memory': jnp.zeros((parallel.padded(self.images), width)),
            'groups': jnp.zeros(parallel.padded(self.images), jnp.int32),
        }
        return {'centroids': {'rows': rows}}, {'centroids': {}}, extra

    def loss(self, encoder, params, state, views, key):
        features = encoder(params['encoder'], state.batch_stats['encoder'], views['image'])
        own, memory = unit_rows(features.pooled), state.extra['memory']
        logits = 4 * jnp.matmul(own, params['centroids']['rows'].T, precision='highest')
        groups = parallel.take(state.extra['groups'], views['row'])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, groups).mean()
        old = parallel.take(memory, views['row'])
        mixed = self.momentum * old + (1 - self.momentum) * jax.lax.stop_gradient(own)
        extra = state.extra | {'memory': parallel.put(memory, views['row'], mixed)}
        batch_stats = {'encoder': features.batch_stats, 'centroids': {}}
        return loss, Aux(batch_stats, extra, {}, {'image': own})

    def between(self, state, epoch, features_of):
        BORDERS.append((epoch, features_of()))
        features = centred(BORDERS[-1][1])
        rows, groups = state.params['centroids']['rows'], state.extra['groups'][: self.images]
        if epoch:
            members = [features[groups == k] for k in range(self.number)]
            pairs = zip(members, rows, strict=True)
            means = [each.mean(0) if len(each) else row for each, row in pairs]
            rows = np.stack([mean / np.linalg.norm(mean) for mean in means]).astype(rows.dtype)
        groups = np.zeros_like(state.extra['groups'])
        groups[: self.images] = (features @ rows.T).argmax(1)
        params = state.params | {'centroids': {'rows': rows}}
        return state.replace(params=params, extra=state.extra | {'groups': groups})


def centred(features):
    return features - features.mean(0)


@pytest.fixture(scope='module', autouse=True)
def registered():
    """The one line of a new task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, 'groups', Groups)
        yield


@pytest.fixture(scope='module')
def whole(tiny_data, tmp_path_factory):
    """(Stage, Outcome, StageDirectory, borders) of its uninterrupted training."""
    store = tmp_path_factory.mktemp('groups')
    each = tiny.make_stages(tiny_data, 'groups')['groups']
    BORDERS.clear()
    outcome = tiny.run(each, store)
    return each, outcome, StageDirectory(store, 'groups', each.key), list(BORDERS)


def test_it_trains(whole):
    """Centroids and groups of the last border before an epoch, memory of every image seen."""
    each, outcome, directory, borders = whole
    assert len({row['loss'] for row in outcome.metrics}) == tiny.STEPS
    assert [epoch for epoch, _ in borders] == [0, 1]
    state = tiny.saved(directory.finished, tiny.STEPS)
    epoch_before = tiny.saved(directory.finished, tiny.STEPS // 2)
    features, rows = centred(borders[1][1]), epoch_before['params/centroids/rows']
    groups = epoch_before['extra/groups'][: each.facts.images]
    np.testing.assert_array_equal(groups, (features @ rows.T).argmax(1))
    assert len(set(state['extra/groups'].tolist())) > 1
    np.testing.assert_array_equal(state['extra/groups'], epoch_before['extra/groups'])
    assert np.abs(state['params/centroids/rows'] - rows).max() > 1e-4
    batches = itertools.islice(loop.batches_on_devices(each, tiny.one_device(), 0), tiny.STEPS)
    seen = {row for batch in batches for row in batch['row'].tolist()}
    assert set(np.flatnonzero(np.any(state['extra/memory'], axis=1))) == seen


def test_features_are_those_of_the_corpus_in_its_order(tiny_data, whole):
    each, _, _, borders = whole
    part = tiny.fresh_parts(each.encoder)['encoder']
    images = each.encoder.contract.images(loader.whole(each.train.corpus))
    small = jax.vmap(lambda image: resize(image, 32))(jnp.asarray(images))
    expected = each.encoder(part['params'], part['batch_stats'], small, train=False).pooled
    epoch, found = borders[0]
    assert epoch == 0 and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    eight = corpus_features(each.encoder, parallel.data_mesh(), part, each.train.corpus, 32, 16)
    np.testing.assert_allclose(eight, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('step', [3, 4])
def test_interrupted_equals_uninterrupted(step, whole, tmp_path):
    """Also at the border of an epoch, which is not crossed twice, and while it is looked at."""
    each, _, directory, _ = whole
    settings = MonitorSettings(health_looks=4, probe_epochs=1)
    watch = functools.partial(monitors_of, settings, tiny.one_device())
    BORDERS.clear()
    with pytest.raises(Interrupted, match=f'step {step} of 8'):
        tiny.run(each, tmp_path, around=tiny.sigterm_at(step), watch=watch)
    outcome = tiny.run(each, tmp_path, watch=watch)
    assert not outcome.reused and [epoch for epoch, _ in BORDERS] == [0, 1]
    tiny.assert_same_training(StageDirectory(tmp_path, 'groups', each.key), directory)
    rows = [json.loads(row) for row in (outcome.folder / 'health.jsonl').open()]
    assert [row['step'] for row in rows] == [1, 2, 4, 6, 8]
    losses = [row['loss'] for row in outcome.metrics]
    assert rows[2]['loss'] == pytest.approx(np.mean(losses[2:4]))
    for row in rows:
        assert 0.05 < row['std'] < 1 < row['rank'] <= 8 and row['alarms'] == []
    rows = [json.loads(row) for row in (outcome.folder / 'probes.jsonl').open()]
    assert [(row['epoch'], row['step']) for row in rows] == [(0, 0), (1, 4), (2, 8)]
    assert len({(row['knn'], row['ridge']) for row in rows}) > 1


def test_its_bundle_has_the_part_that_the_next_stage_takes(tiny_data, whole, tmp_path):
    """Another stage of the task starts from the centroids that were left, not from its own."""
    _, outcome, directory, _ = whole
    left = read_parts(directory.finished)
    assert left.keys() == {'encoder', 'centroids'}
    rows = tiny.saved(directory.finished)['params/centroids/rows']
    np.testing.assert_array_equal(left['centroids']['params']['rows'], rows)
    second = tiny.make_stages(tiny_data, 'groups_groups')['groups2']
    assert second.parent_key == whole[0].key
    state = tiny.first_state(second, tmp_path, outcome.parts)
    np.testing.assert_array_equal(state.params['centroids']['rows'], rows)
    assert not np.any(state.extra['memory'])
    # A stage that finds no such part makes its own.
    alone = tiny.first_state(second, tmp_path, {'encoder': outcome.parts['encoder']})
    assert trees.sha256(alone.params['encoder']) == trees.sha256(state.params['encoder'])
    assert np.abs(alone.params['centroids']['rows'] - rows).min() > 0
    with pytest.raises(UserError, match='centroids that stage groups leaves for groups2'):
        tiny.make_stages(tiny_data, 'groups_groups', **{'stage.groups2.task.number': 4})


def test_eight_devices_equal_one(tiny_data, tmp_path):
    """Its memory, groups and centroids among the rest."""
    each, found = exactness.stage_of(tiny_data, 'groups', 8), {}
    for devices in (1, 8):
        mesh = parallel.data_mesh(jax.devices()[:devices])
        found[devices] = exactness.train(each, mesh, tmp_path / str(devices))
    memory = found[1]["['state']['extra']['memory']"]
    assert memory.dtype == np.float64 and np.any(memory)
    assert len(np.unique(found[1]["['state']['extra']['groups']"])) > 1
    exactness.assert_equal(found[8], found[1])


def test_it_runs_in_a_study(tiny_data, tmp_path):
    """Beside scratch: a cell of its own with its stage and bundle, compared like any other."""
    config = get_config('demo')
    run = {f'run.{k}': v for k, v in tiny.settings('groups').items()}
    config.update_from_flattened_dict(
        run
        | {'run.data.dir': str(tiny_data.directory.parents[1]), 'compare.resamples': 100}
        | {'axes.curriculum': ('scratch', 'groups'), 'axes.region': ('full',)}
    )
    with tiny.compiled_once():
        study = work.run(ConfigDict(config.to_dict()), tmp_path)
    scratch, own = sorted(study['cells'], key=lambda cell: len(cell['stages']))
    assert [stage['stage'] for stage in own['stages']] == ['groups', 'classify']
    assert own['kind'] == 'single' and own['stages'][0]['key'] == own['stages'][1]['parent_key']
    bundle = tmp_path / 'stages' / f'groups-{own["stages"][0]["key"]}'
    assert read_parts(bundle).keys() == {'encoder', 'centroids'}
    [compared] = study['comparisons']['comparisons']
    assert {compared['first'], compared['second']} == {'scratch', 'groups'}
    assert scratch['test']['images'] == own['test']['images'] > 0
