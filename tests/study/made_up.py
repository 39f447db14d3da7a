"""Finished cells with made-up predictions."""

import numpy as np

from cxr_jax.evaluation.measures import evaluate
from cxr_jax.study.grid import Cell
from cxr_jax.study.models import Finished

NAMES = ('a', 'b', 'c')


def table(skill, k=3, n=90, seed=0, exclusive=True, of=0):
    """Scores that are right in a share of `skill`, two images a patient; of the same images for
    the same `of`, k and n."""
    images, rng = np.random.default_rng(1000 + of), np.random.default_rng(seed)
    labels = images.integers(0, k, n)
    told = np.where(rng.random(n) < skill, labels, (labels + 1) % k)
    if not exclusive:
        labels = np.eye(k, dtype=int)[labels]
        labels[images.random((n, k)) < 0.1] = -1
    order = rng.permutation(n)
    rows = {
        'scores': np.clip(np.eye(k)[told], 0.1, 0.8), 'labels': labels,
        'patients': np.array([f'p{i // 2:03d}' for i in range(n)]),
        'image_ids': np.array([f'image{of}{i:04d}' for i in range(n)]),
    }  # fmt: skip
    return {name: x[order] for name, x in rows.items()}


def finished(levels, skill, seed=0, tasks=None, names=NAMES, exclusive=True, **of_table):
    """The cell of {axis: level}, trained from `seed`; its curriculum is the axis `curriculum`."""
    level = levels.get('curriculum', 'scratch')
    if tasks is None:
        tasks = () if level in ('scratch', 'imagenet') else tuple(level.split('_'))
    number = round(1000 * skill) + seed  # each its own errors
    found = table(skill, len(names), seed=number, exclusive=exclusive, **of_table)
    cell = Cell(levels, seed, {})
    results = {
        'data': {'name': 'phantoms'}, 'folds': 0, 'region': 'full', 'attention': None,
        'boxes': None, 'stages': [{'stage': task} for task in tasks],
        'test': evaluate(found, names, exclusive, resamples=20),
    }  # fmt: skip
    return Finished(cell, tasks, cell.folder, results, found)
