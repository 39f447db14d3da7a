"""ODC: the weighted cross-entropy, and a step with its memory, labels and counts."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.dropout import kept_units
from cxr_jax.runtime import parallel
from cxr_jax.tasks.odc import ODC, cluster_weights, weighted_cross_entropy
from tests.parity import reference as ref
from tests.tasks.one_step import facts

ROWS, INPUTS, WIDTH, HIDDEN, FEATURES, CLUSTERS, IMAGES = 8, 4, 6, 7, 5, 4, 40
TASK = ODC(
    clusters=CLUSTERS, min_cluster=2, hidden=HIDDEN, features=FEATURES, momentum=0.3, dropout=0.25
)  # fmt: skip
TASK, _ = TASK.resolve(facts(images=IMAGES))


def plain(logits, labels, counts):
    weights = (counts + 1e-10) ** -0.5
    weights = weights / weights.sum()
    losses = [-ref.log_softmax(row)[label] for row, label in zip(logits, labels, strict=True)]
    own = [weights[label] for label in labels]
    return sum(w * loss for w, loss in zip(own, losses, strict=True)) / sum(own)


def test_weighted_cross_entropy():
    """Of classes of very different size, an empty one among them."""

    def draw(rng, batch, width):
        counts = rng.integers(0, 3, width) * rng.integers(1, 50, width)
        labels = rng.choice(np.flatnonzero(counts) if counts.any() else [0], batch)
        return {'logits': 3 * rng.normal(size=(batch, width)), 'labels': labels, 'counts': counts}

    def ours(logits, labels, counts):
        return weighted_cross_entropy(logits, labels, cluster_weights(counts, jnp.float64))

    ref.assert_parity(ours, plain, draw)


def random_state(seed=0):
    rng = np.random.default_rng(seed)

    def linear(inputs, outputs):
        return {'kernel': rng.normal(size=(inputs, outputs)), 'bias': rng.normal(size=outputs)}

    params = {
        'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))},
        'neck': {'linear1': linear(WIDTH, HIDDEN), 'linear2': linear(HIDDEN, FEATURES)},
        'head': {'linear': linear(FEATURES, CLUSTERS)},
    }
    stats = {'bn1': {'mean': np.zeros(HIDDEN), 'var': np.ones(HIDDEN)}}
    labels = np.full(parallel.padded(IMAGES), -1, np.int32)
    labels[:IMAGES] = CLUSTERS * rng.random(IMAGES) ** 2
    memory = ref.unit(rng.normal(size=(len(labels), FEATURES)))
    extra = {'memory': memory, 'labels': labels, 'centroids': rng.normal(size=(CLUSTERS, FEATURES))}
    state = SimpleNamespace(
        params=params, batch_stats={'encoder': {}, 'neck': stats, 'head': {}}, extra=extra,
        step=np.int32(3),
    )  # fmt: skip
    rows = rng.permutation(IMAGES)[:ROWS].astype(np.int32)
    return state, {'image': rng.normal(size=(ROWS, 1, 1, INPUTS)), 'row': rows}


def dropped():
    """Dropout's factors of the whole batch, by the key of run_loss."""
    return parallel.rows_of_all(kept_units(jax.random.key(7), ROWS, HIDDEN, 0.25))


@pytest.mark.parametrize('devices', [1, 4])
def test_the_whole_step(devices):
    """The loss by the labels and counts of before; then memory and labels of the batch's rows."""
    state, views = random_state()
    with jax.enable_x64(True):
        kept = np.asarray(ref.on_one_device(dropped))
    rows, before = views['row'], state.extra

    def embedded(params):
        hidden = ref.linear(views['image'][:, 0, 0] @ params['encoder']['kernel'],
                            params['neck']['linear1'])  # fmt: skip
        hidden = ref.relu(ref.batch_norm(hidden, {'scale': 1, 'bias': 0})) * kept
        return ref.relu(ref.linear(hidden, params['neck']['linear2']))

    counts = np.array([(before['labels'] == k).sum() for k in range(CLUSTERS)])

    def loss(params):
        logits = ref.linear(embedded(params), params['head']['linear'])
        return plain(logits, before['labels'][rows], counts)

    encoder = ref.LinearEncoder(WIDTH)
    result = ref.assert_task_parity(TASK, encoder, state, views, loss, devices)
    features = embedded(state.params)
    ref.assert_close(result.embeddings['image'], features)
    memory, labels = before['memory'].copy(), before['labels'].copy()
    memory[rows] = ref.unit(0.7 * memory[rows] + 0.3 * ref.unit(features))
    labels[rows] = (memory[rows] @ before['centroids'].T).argmax(1)
    ref.assert_close(result.extra['memory'], memory)
    np.testing.assert_array_equal(result.extra['labels'], labels)
    np.testing.assert_array_equal(result.extra['centroids'], before['centroids'])
    changed = (labels[rows] != before['labels'][rows]).mean()
    assert 0 < changed < 1 and result.metrics['changed'] == changed
