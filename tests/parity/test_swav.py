"""SwAV: balanced assignments, swapped predictions, the queue."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.heads import unit_rows
from cxr_jax.tasks.swav import SwAV, sinkhorn, swapped_prediction_loss
from tests.parity import reference as ref

CROPS, ROWS, INPUTS, WIDTH, FEATURES, QUEUE = 4, 8, 4, 6, 3, 16
TASK = SwAV(
    prototypes=5, queue_size=QUEUE, hidden=7, features=FEATURES, small_crops=2, temperature=0.3,
    epsilon=0.2, queue_start_step=2,
)  # fmt: skip


def balanced(scores, epsilon, iterations):
    """The paper's algorithm on exp(scores / epsilon) itself, prototypes by rows."""
    q = np.exp((scores - scores.max()) / epsilon).T
    q = q / q.sum()
    prototypes, rows = q.shape
    for _ in range(iterations):
        q = q / q.sum(1, keepdims=True) / prototypes
        q = q / q.sum(0, keepdims=True) / rows
    return (q / q.sum(0, keepdims=True)).T


def swapped(scores, assignments, temperature):
    """Written out crop by crop, as the official code does."""
    loss = 0
    for i in range(2):
        own = 0
        for v in range(len(scores)):
            if v != i:
                own = (
                    own - (assignments[i] * ref.log_softmax(scores[v] / temperature)).sum(1).mean()
                )
        loss = loss + own / (len(scores) - 1)
    return loss / 2


@pytest.mark.parametrize(('epsilon', 'iterations'), [(0.05, 3), (0.5, 1)])
def test_sinkhorn(epsilon, iterations):
    compiled = jax.jit(lambda scores: sinkhorn(scores, epsilon, iterations))
    for seed, batch, width in ref.cases():
        scores = np.random.default_rng(seed).uniform(-1, 1, (batch, width))
        with jax.enable_x64(True):
            found = compiled(scores)
        ref.assert_close(found, balanced(scores, epsilon, iterations), f'seed {seed}')


def test_swapped_prediction_loss():
    def draw(rng, batch, width):
        assignments = rng.dirichlet(np.ones(width), (2, batch))
        return {'scores': rng.normal(size=(CROPS, batch, width)), 'assignments': assignments}

    def loss(scores, assignments):
        return swapped_prediction_loss(scores, assignments, 0.1)

    ref.assert_parity(loss, lambda scores, assignments: swapped(scores, assignments, 0.1), draw)


def test_sinkhorn_of_the_golden_vector(golden):
    vectors = golden('sinkhorn')
    with jax.enable_x64(True):
        scores = jnp.asarray(vectors['scores'])
        found = sinkhorn(scores, float(vectors['epsilon']), int(vectors['iterations']))
    ref.assert_close(found, vectors['assignments'])


@pytest.mark.parametrize('name', ['swav', 'swav_queue'])
def test_the_golden_vectors(golden, name):
    vectors = golden(name)
    epsilon, iterations = float(vectors['epsilon']), int(vectors['iterations'])

    def loss(embeddings, prototypes):
        z = unit_rows(embeddings)
        assignments = []
        for i in range(2):
            rows = jnp.concatenate([vectors['queue'][i], z[i]]) if 'queue' in vectors else z[i]
            scores = jax.lax.stop_gradient(rows @ prototypes.T)
            assignments.append(sinkhorn(scores, epsilon, iterations)[-z.shape[1] :])
        scores = z @ prototypes.T
        return swapped_prediction_loss(
            scores, jnp.stack(assignments), float(vectors['temperature'])
        )

    with jax.enable_x64(True):
        embeddings = jnp.asarray(vectors['embeddings'])
        prototypes = jnp.asarray(ref.unit(vectors['prototypes']))
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(embeddings, prototypes)
    ref.assert_close(value, vectors['loss'])
    ref.assert_close(gradients[0], vectors['grad_embeddings'])
    ref.assert_close(gradients[1], vectors['grad_normalised_prototypes'])


def random_state(filled: bool, step: int):
    rng = np.random.default_rng(0)
    layers = {
        'linear1': {'kernel': rng.normal(size=(WIDTH, 7)), 'bias': rng.normal(size=7)},
        'bn1': {'scale': rng.normal(size=7), 'bias': rng.normal(size=7)},
        'linear2': {'kernel': rng.normal(size=(7, FEATURES)), 'bias': rng.normal(size=FEATURES)},
    }
    params = {
        'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))},
        'projector': layers,
        'prototypes': {'rows': ref.unit(rng.normal(size=(5, FEATURES)))},
    }
    queue = ref.unit(rng.normal(size=(2, QUEUE, FEATURES)))
    if not filled:
        queue[:, 4:] = 0
    norms = {'mean': np.zeros(7), 'var': np.ones(7)}
    stats = {'encoder': {}, 'projector': {'bn1': norms}, 'prototypes': {}}
    views = {name: rng.normal(size=(ROWS, 2, 1, 1, INPUTS)) for name in ('large', 'small')}
    state = SimpleNamespace(
        params=params, batch_stats=stats, extra={'queue': queue}, step=np.int32(step)
    )
    return state, views


def embedded(params, views):
    """[crops, B, D]: one pass of the projector, so one batch norm, over all crops."""
    crops = np.concatenate([np.swapaxes(views[name], 0, 1) for name in ('large', 'small')])
    layers = params['projector']
    pooled = crops[:, :, 0, 0] @ params['encoder']['kernel']
    hidden = ref.linear(pooled.reshape(CROPS * ROWS, WIDTH), layers['linear1'])
    hidden = ref.relu(ref.batch_norm(hidden, layers['bn1']))
    return ref.unit(ref.linear(hidden, layers['linear2'])).reshape(CROPS, ROWS, FEATURES)


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize(('filled', 'step'), [(True, 2), (False, 1)])
def test_the_whole_step(filled, step, devices):
    """Assignments of the global batch behind a full queue, each of its own crop, constants of the
    gradient; the batch enters in front from the start step on."""
    state, views = random_state(filled, step)
    before = embedded(state.params, views)
    queue, prototypes = state.extra['queue'], state.params['prototypes']['rows']
    assignments = []
    for i in range(2):
        rows = np.concatenate([queue[i], before[i]]) if filled else before[i]
        assignments.append(balanced(rows @ prototypes.T, TASK.epsilon, TASK.iterations)[-ROWS:])

    def loss(params):
        scores = embedded(params, views) @ params['prototypes']['rows'].T
        return swapped(scores, np.stack(assignments), TASK.temperature)

    result = ref.assert_task_parity(TASK, ref.LinearEncoder(WIDTH), state, views, loss, devices)
    entered = np.concatenate([before[:2], queue], axis=1)[:, :QUEUE]
    ref.assert_close(result.extra['queue'], entered if step >= 2 else queue)
