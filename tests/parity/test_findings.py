"""Several findings: binary cross-entropy over the labels that are known, on one device and four."""

from types import SimpleNamespace

import numpy as np
import pytest

from cxr_jax.tasks.findings import Findings
from tests.parity import reference as ref

INPUTS, WIDTH, FINDINGS = 3, 4, 3
WEIGHTS = ((0.4, 2.5), (1.0, 0.7), (1.5, 0.1))  # without and with each finding
TASKS = {
    'plain': Findings(outputs=FINDINGS),
    'weights and focal': Findings(outputs=FINDINGS, weights=WEIGHTS, focal=1.5),
}


@pytest.mark.parametrize(
    ('task', 'devices', 'count'),
    [('plain', 1, 100), ('plain', 4, 10), ('weights and focal', 1, 30)],
)
def test_the_whole_step(task, devices, count):
    task = TASKS[task]
    for seed, rows, _ in ref.cases(count):
        rows = rows if devices == 1 else 8
        rng = np.random.default_rng(seed)
        linear = {'kernel': rng.normal(size=(WIDTH, FINDINGS)), 'bias': rng.normal(size=FINDINGS)}
        params = {
            'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))}, 'head': {'linear': linear},
        }  # fmt: skip
        stats = {'encoder': {}, 'head': {}}
        state = SimpleNamespace(params=params, batch_stats=stats, extra={}, step=np.int32(0))
        labels = rng.integers(-1, 2, (rows, FINDINGS))
        views = {'image': rng.normal(size=(rows, 1, 1, INPUTS)), 'label': labels}

        def loss(params, views=views):
            pooled = views['image'][:, 0, 0] @ params['encoder']['kernel']
            logits, total, known = ref.linear(pooled, params['head']['linear']), 0, 0
            for at in np.ndindex(logits.shape):
                if views['label'][at] >= 0:
                    there = views['label'][at]
                    log_p = -np.log(1 + np.exp(-logits[at] if there else logits[at]))
                    weight = task.weights[at[1]][there] if task.weights else 1
                    total = total - weight * (1 - np.exp(log_p)) ** task.focal * log_p
                    known += 1
            return total / max(known, 1)

        ref.assert_task_parity(task, ref.LinearEncoder(WIDTH), state, views, loss, devices)
