"""LeJEPA: the statistic over the whole line, the weighting, and which views predict which."""

import jax
import numpy as np
import pytest

from cxr_jax.tasks.lejepa import LeJEPA, epps_pulley, lejepa_loss, prediction_loss, sigreg
from tests.parity import reference as ref
from tests.tasks.one_step import State

VIEWS, ROWS, INPUTS, WIDTH = 4, 8, 4, 6
TASK = LeJEPA(projector=(7, 5, 3), slices=4, small_crops=2, lambd=0.3)


def statistic(samples):
    """[N, ...] -> [...]: trapezoids over 17 points from -5 to 5, as the paper's algorithm 1."""
    t = np.linspace(-5, 5, 17)
    angles = samples[..., None] * t
    real, imaginary = np.cos(angles).mean(0), np.sin(angles).mean(0)
    error = ((real - np.exp(-(t**2) / 2)) ** 2 + imaginary**2) * np.exp(-(t**2) / 2)
    return len(samples) * ((error[..., 1:] + error[..., :-1]) / 2 * (t[1] - t[0])).sum(-1)


def regular(embeddings, directions):
    """View by view."""
    return sum(statistic(view @ directions).mean() for view in embeddings) / len(embeddings)


def prediction(embeddings, centres):
    mean = sum(embeddings[:centres]) / centres
    return sum(((view - mean) ** 2).mean() for view in embeddings) / len(embeddings)


def test_epps_pulley():
    def draw(rng, batch, width):
        return {'samples': 2 * rng.normal(size=(batch, width))}

    def reference(samples):
        return statistic(samples).sum()

    ref.assert_parity(lambda samples: epps_pulley(samples).sum(), reference, draw)


def draw(rng, batch, width):
    directions = rng.normal(size=(width, 2))
    return {
        'embeddings': rng.normal(size=(3, batch, width)),
        'directions': directions / np.sqrt((directions**2).sum(0)),
    }


def test_sigreg():
    ref.assert_parity(sigreg, regular, draw)


@pytest.mark.parametrize('centres', [1, 2, VIEWS])
def test_prediction_loss(centres):
    def one(rng, batch, width):
        return {'embeddings': rng.normal(size=(VIEWS, batch, width))}

    ref.assert_parity(
        lambda embeddings: prediction_loss(embeddings, centres),
        lambda embeddings: prediction(embeddings, centres),
        one,
    )


def test_lejepa_loss():
    def reference(embeddings, directions):
        return 0.95 * prediction(embeddings, 2) + 0.05 * regular(embeddings, directions)

    ref.assert_parity(
        lambda **arrays: lejepa_loss(**arrays, centres=2, lambd=0.05), reference, draw
    )


def random_state():
    rng, widths = np.random.default_rng(0), (WIDTH, *TASK.projector)
    layers, norms = {}, {}
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True), 1):
        layers[f'linear{i}'] = {
            'kernel': rng.normal(size=(inputs, outputs)), 'bias': rng.normal(size=outputs),
        }  # fmt: skip
        if i < len(TASK.projector):
            layers[f'bn{i}'] = {'scale': rng.normal(size=outputs), 'bias': rng.normal(size=outputs)}
            norms[f'bn{i}'] = {'mean': np.zeros(outputs), 'var': np.ones(outputs)}
    params = {'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))}, 'projector': layers}
    stats = {'encoder': {}, 'projector': norms}
    views = {name: rng.normal(size=(ROWS, 2, 1, 1, INPUTS)) for name in ('large', 'small')}
    return State(params=params, batch_stats=stats, extra={}, step=np.int32(0)), views


@pytest.mark.parametrize('devices', [1, 4])
def test_the_whole_step(devices):
    """The large crops alone are predicted, by all; every device tests the same directions."""
    state, views = random_state()
    with jax.enable_x64(True):
        directions = np.asarray(TASK.directions(jax.random.key(7)))
    np.testing.assert_allclose((directions**2).sum(0), np.ones(TASK.slices))

    def loss(params):
        crops = np.concatenate([np.swapaxes(views[name], 0, 1) for name in ('large', 'small')])
        x = crops[:, :, 0, 0].reshape(VIEWS * ROWS, INPUTS) @ params['encoder']['kernel']
        layers = params['projector']
        for i in (1, 2):
            x = ref.relu(ref.batch_norm(ref.linear(x, layers[f'linear{i}']), layers[f'bn{i}']))
        x = ref.linear(x, layers['linear3']).reshape(VIEWS, ROWS, -1)
        return 0.7 * prediction(x, 2) + 0.3 * regular(x, directions)

    ref.assert_task_parity(TASK, ref.LinearEncoder(WIDTH), state, views, loss, devices)
