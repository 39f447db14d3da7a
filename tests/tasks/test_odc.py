"""ODC's clusters against plain NumPy: memory, labels, centroids, small clusters, first k-means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.heads import unit_rows
from cxr_jax.runtime import parallel
from cxr_jax.tasks import clusters
from cxr_jax.tasks.odc import ODC
from cxr_jax.train.state import TrainState
from data_pipelines.errors import UserError
from tests.tasks.one_step import facts

IMAGES, WIDTH, CLUSTERS, LEAST, BATCH = 300, 5, 9, 20, 64
TASK = ODC(clusters=CLUSTERS, min_cluster=LEAST, features=WIDTH, hidden=7, centroid_steps=3)
TASK, _ = TASK.resolve(facts(images=IMAGES))


def unit(rows):
    return rows / np.sqrt(np.square(rows).sum(-1, keepdims=True))


class Plain:
    """The same, image by image, of the images alone."""

    def __init__(self, memory, labels, centroids):
        self.memory, self.labels, self.centroids = memory.copy(), labels.copy(), centroids.copy()
        self.refilled = 0

    def step(self, number, rows, features):
        before = self.memory.copy()
        for row, feature in zip(rows, features, strict=True):
            self.memory[row] = unit(0.5 * before[row] + 0.5 * unit(feature))
            self.labels[row] = np.argmax([self.memory[row] @ c for c in self.centroids])
        if (number + 1) % 3 == 0:
            for k in {*self.labels}:
                self.centroids[k] = self.memory[self.labels == k].mean(0)
        sizes = np.array([(self.labels == k).sum() for k in range(CLUSTERS)])
        small, large = np.flatnonzero(sizes < LEAST), np.flatnonzero(sizes >= LEAST)
        for row in np.flatnonzero(np.isin(self.labels, small)):
            nearest = np.argmax(self.centroids[large] @ self.memory[row])
            self.labels[row] = large[nearest]
        for k in small:
            self.refill(k)
        self.refilled += len(small)

    def refill(self, k):
        largest = np.bincount(self.labels, minlength=CLUSTERS).argmax()
        members = np.flatnonzero(self.labels == largest)
        self.labels[members[split(self.memory[members])]] = k
        for changed in (largest, k):
            self.centroids[changed] = self.memory[self.labels == changed].mean(0)


def split(rows):
    """Which rows are of the second cluster, by 2-means."""
    away = rows - rows.mean(0)
    farthest = away[np.argmax([row @ row for row in away])]
    second = away @ farthest > 0
    for _ in range(20):
        centres = rows[~second].mean(0), rows[second].mean(0)
        distances = np.array([[np.square(row - c).sum() for c in centres] for row in rows])
        moved = distances[:, 1] < distances[:, 0]
        if (moved == second).all():
            break
        second = moved
    return second


def start(rng, padding):
    """Extra of the task: memory of random units, clusters of very unequal size."""
    extra = jax.eval_shape(lambda: TASK.init(jax.random.key(0), Encoder, {})[2])
    memory = np.full(extra['memory'].shape, padding)
    memory[:IMAGES] = unit(rng.normal(size=(IMAGES, WIDTH)))
    labels = np.full(extra['labels'].shape, -1, np.int32)
    labels[:IMAGES] = CLUSTERS * rng.random(IMAGES) ** 5
    return {'memory': memory, 'labels': labels, 'centroids': rng.normal(size=(CLUSTERS, WIDTH))}


class Encoder:
    feature_width = 4


def compiled_step(devices):
    def step(extra, number, rows, features):
        extra, _ = TASK._remember(extra, rows, unit_rows(features))
        return TASK.after_update({}, extra, number)[1]

    spread = {name: name in TASK.by_image for name in ('memory', 'labels', 'centroids')}
    mesh = parallel.data_mesh(jax.devices()[:devices])
    return parallel.sharded(step, mesh, (spread, False, True, True), spread)


@pytest.mark.parametrize('devices', [1, 8])
def test_twelve_steps_are_those_of_plain_numpy(devices):
    """Images drift towards one direction, so clusters empty; some come twice in a batch. What
    stands in rows without an image changes nothing."""
    with jax.enable_x64(True):
        step, rng = compiled_step(devices), np.random.default_rng(0)
        extra = start(rng, padding=1e6)
        plain = Plain(extra['memory'][:IMAGES], extra['labels'][:IMAGES], extra['centroids'])
        refilled = []
        for number in range(12):
            rows = rng.integers(0, IMAGES, BATCH).astype(np.int32)
            features = rng.normal(size=(BATCH, WIDTH)) + (number > 5)
            extra = jax.device_get(step(extra, number, rows, features))
            plain.step(number, rows, features)
            refilled.append(plain.refilled)
            np.testing.assert_array_equal(extra['labels'][:IMAGES], plain.labels)
            np.testing.assert_allclose(extra['memory'][:IMAGES], plain.memory, rtol=1e-12)
            np.testing.assert_allclose(extra['centroids'], plain.centroids, rtol=1e-10, atol=1e-12)
            assert (extra['labels'][IMAGES:] == -1).all()
    assert refilled[0] > 2 and 0 in np.diff(refilled) and refilled[-1] > refilled[5]


def test_states_together_are_refilled_as_each_alone():
    """One of them has a small cluster, the other none."""
    rng = np.random.default_rng(0)
    memory = unit(rng.normal(size=(2, 512, WIDTH))).astype(np.float32)
    labels = np.stack([np.arange(512) % 4, np.where(np.arange(512) < 5, 3, np.arange(512) % 3)])
    labels, centroids = labels.astype(np.int32), memory[:, :4]

    def refill(memory, labels, centroids):
        return clusters.refill_small(memory, labels, centroids, 20)

    def on_mesh(memory, labels, centroids):
        each = [refill(memory[i], labels[i], centroids[i]) for i in range(2)]
        return jax.vmap(refill)(memory, labels, centroids), each

    mesh = parallel.data_mesh(jax.devices()[:1])
    # The one device holds all rows of both.
    on_mesh = parallel.sharded(
        on_mesh, mesh, (True, True, False), ((True, False), [(True, False)] * 2)
    )
    together, alone = jax.device_get(on_mesh(memory, labels, centroids))
    for i, (own_labels, own_centroids) in enumerate(alone):
        np.testing.assert_array_equal(together[0][i], own_labels)
        np.testing.assert_allclose(together[1][i], own_centroids, rtol=1e-6)
    np.testing.assert_array_equal(alone[0][0], labels[0])
    assert np.bincount(labels[1])[3] == 5 and np.bincount(alone[1][0]).min() >= 20


def half(rows, members, devices=1):
    mesh = parallel.data_mesh(jax.devices()[:devices])
    return np.asarray(parallel.sharded(clusters.second_half, mesh, True, True)(rows, members))


@pytest.mark.parametrize('devices', [1, 8])
def test_a_cluster_of_two_clouds_is_split_between_them(devices):
    rng = np.random.default_rng(0)
    cloud, members = rng.random(64) < 0.2, rng.random(64) < 0.7
    rows = rng.normal(size=(64, 3), scale=0.1) + np.where(cloud, 1, -1)[:, None]
    found = half(rows.astype(np.float32), members, devices)
    assert not found[~members].any()
    assert {*found[members & cloud]} in ({True}, {False})
    assert {*found[members & ~cloud]} in ({True}, {False}) and 0 < found.sum() < members.sum()


@pytest.mark.parametrize('devices', [1, 8])
def test_a_cluster_of_equal_rows_is_halved(devices):
    members = np.arange(64) % 3 > 0
    found = half(np.ones((64, 3), np.float32), members, devices)
    assert np.flatnonzero(found).tolist() == np.flatnonzero(members)[1::2].tolist()


def test_k_means_finds_clouds_and_leaves_no_cluster_empty():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 6, 1200)
    rows = rng.normal(size=(1200, 8), scale=0.05) + np.eye(6, 8)[true]
    found = clusters.k_means(rows, 40, 20, 0)
    # A cluster of 40 lies within a cloud, of which there are 6.
    assert all(len({*true[found == k]}) == 1 for k in range(40))
    centres = np.stack([rows[found == k].mean(0) for k in range(40)])
    nearest = ((rows[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert (nearest == found).mean() > 0.98  # all, once nothing moves
    same = clusters.k_means(np.ones((50, 3)), 7, 20, 0)
    assert np.bincount(same, minlength=7).min() == 1 and same.dtype == np.int32
    np.testing.assert_array_equal(found, clusters.k_means(rows, 40, 20, 0))


def test_the_corpus_is_clustered_behind_the_neck_before_the_first_step():
    params, stats, extra = TASK.init(jax.random.key(0), Encoder, {})
    stats['neck'] = jax.tree.map(lambda x: x + 0.5, stats['neck'])
    key, step = jax.random.key_data(jax.random.key(1)), jnp.zeros((), jnp.int32)
    state = jax.device_get(TrainState(step, params, stats, (), extra, key, step))
    pooled = np.random.default_rng(0).normal(size=(IMAGES, 4)).astype(np.float32)
    assert TASK.between(state, 1, None) is state
    new = TASK.between(state, 0, lambda: pooled)

    neck, own = state.params['neck'], state.batch_stats['neck']['bn1']
    hidden = pooled @ neck['linear1']['kernel'] + neck['linear1']['bias']
    hidden = np.maximum((hidden - own['mean']) / np.sqrt(own['var'] + 1e-5), 0)
    rows = np.maximum(hidden @ neck['linear2']['kernel'] + neck['linear2']['bias'], 0)
    np.testing.assert_allclose(new.extra['memory'][:IMAGES], unit(rows), rtol=1e-4, atol=1e-5)
    labels = new.extra['labels'][:IMAGES]
    assert {*labels} == {*range(CLUSTERS)}
    for k in range(CLUSTERS):
        mean = new.extra['memory'][:IMAGES][labels == k].mean(0)
        np.testing.assert_allclose(new.extra['centroids'][k], mean, rtol=1e-5, atol=1e-7)
    for name in TASK.by_image:
        np.testing.assert_array_equal(new.extra[name][IMAGES:], state.extra[name][IMAGES:])
    for name, values in state.extra.items():
        assert new.extra[name].shape == values.shape and new.extra[name].dtype == values.dtype


def test_numbers_of_clusters():
    def resolved(images, **asked):
        task, _ = ODC(**asked).resolve(facts(images=images))
        return task.clusters, task.min_cluster

    assert resolved(5000) == (100, 12)
    assert resolved(1_281_167) == (10000, 20)
    assert resolved(5000, clusters=50) == (50, 20)
    assert resolved(300, clusters=100, min_cluster=3) == (100, 3)
    with pytest.raises(UserError, match=r'cannot be made of 299 images.*99 at most'):
        resolved(299, clusters=100, min_cluster=3)
