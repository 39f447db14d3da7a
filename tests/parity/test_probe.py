"""The linear probe: its loss, and that no gradient reaches the encoder or the statistics."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.tasks.probe import Probe
from tests.parity import reference as ref
from tests.parity.test_classify import rows_by_loops

INPUTS, WIDTH, OUTPUTS = 3, 5, 4


def drawn(seed, rows, exclusive):
    """(state, views) of random features and statistics."""
    rng = np.random.default_rng(seed)
    linear = {'kernel': rng.normal(size=(WIDTH, OUTPUTS)), 'bias': rng.normal(size=OUTPUTS)}
    params = {
        'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))}, 'head': {'linear': linear},
        'statistics': {'mean': rng.normal(size=WIDTH), 'scale': rng.random(WIDTH)},
    }  # fmt: skip
    stats = {part: {} for part in params}
    labels = rng.integers(0, OUTPUTS, rows)
    if not exclusive:
        labels = rng.integers(-1, 2, (rows, OUTPUTS))
    views = {'image': rng.normal(size=(rows, 1, 1, INPUTS)), 'label': labels}
    return SimpleNamespace(params=params, batch_stats=stats, extra={}, step=np.int32(0)), views


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('exclusive', [True, False])
def test_the_whole_step(exclusive, devices):
    task = Probe(outputs=OUTPUTS, exclusive=exclusive)
    for seed, rows, _ in ref.cases(50 if devices == 1 else 5):
        state, views = drawn(seed, rows if devices == 1 else 8, exclusive)
        fixed = state.params

        def loss(params, views=views, fixed=fixed):
            """As if all but the head were constants."""
            pooled = views['image'][:, 0, 0] @ fixed['encoder']['kernel']
            x = (pooled - fixed['statistics']['mean']) * fixed['statistics']['scale']
            logits = ref.linear(x, params['head']['linear'])
            if exclusive:
                return rows_by_loops(logits, views['label']).mean()
            losses = [
                np.log(1 + np.exp(-logit if label else logit))
                for logit, label in zip(logits.flat, views['label'].flat, strict=True)
                if label >= 0
            ]
            return np.sum(losses) / max(len(losses), 1)

        result = ref.assert_task_parity(task, ref.LinearEncoder(WIDTH), state, views, loss, devices)
        for part in ('encoder', 'statistics'):
            for gradient in jax.tree.leaves(result.gradients[part]):
                np.testing.assert_array_equal(gradient, 0)


def test_statistics_are_those_of_the_training_images():
    """Row by row; a feature that is the same in all of them is left as it is."""
    for seed, rows, width in ref.cases():
        rng = np.random.default_rng(seed)
        features = rng.normal(3, 2, (rows, width))
        features[:, -1] = 0.1
        params = {'statistics': {'mean': np.zeros(width), 'scale': np.zeros(width)}}
        found = Probe().fitted(params, features, None)['statistics']
        for k, column in enumerate(features.T):
            mean = sum(column) / rows
            deviation = np.sqrt(sum((x - mean) ** 2 for x in column) / rows)
            ref.assert_close(found['mean'][k], mean)
            expected = 1 / ((deviation if k < width - 1 else 1) * np.sqrt(width))
            ref.assert_close(found['scale'][k], expected)
