"""Tables of predictions with made-up numbers."""

import numpy as np


def made_up_table(seed=0, n=90, k=4, skill=0.4, of=0):
    """Scores on a coarse grid (so that they tie), labels, two images a patient, attention.

    Tables of the same `of`, n and k are of the same images.
    """
    images, rng = np.random.default_rng(1000 + of), np.random.default_rng(seed)
    labels = images.integers(0, k, n)
    lung_area, box_area = images.uniform(0.2, 0.4, (2, n))
    lung_area[: n // 9], box_area[: n // 2] = np.nan, np.nan
    scores = rng.dirichlet(np.ones(k), n) + skill * (labels[:, None] == np.arange(k))
    table = {
        'scores': np.round(scores / scores.sum(1, keepdims=True), 1),
        'labels': labels,
        'patients': np.array([f'p{i // 2:03d}' for i in range(n)]),
        'image_ids': np.array([f'image{i:04d}' for i in range(n)]),
        'ail': rng.random(n), 'lung_area': lung_area,
        'box_attention': rng.random(n), 'box_area': box_area,
    }  # fmt: skip
    table['ail'][-3:] = table['box_attention'][-3:] = np.nan
    return table


def without_class(table, c):
    """The rows of the other classes."""
    return {name: x[table['labels'] != c] for name, x in table.items()}


def findings_table(seed=0, n=80, k=3, known=0.8, of=0):
    """Scores of k findings on a coarse grid, labels of 1, 0 and -1, two images a patient."""
    images, rng = np.random.default_rng(2000 + of), np.random.default_rng(seed)
    truth = (images.random((n, k)) < np.linspace(0.2, 0.5, k)).astype(int)
    labels = np.where(images.random((n, k)) < known, truth, -1)
    return {
        'scores': np.round(np.clip(rng.beta(2, 3, (n, k)) + 0.2 * truth, 0, 1), 1),
        'labels': labels,
        'patients': np.array([f'p{i // 2:03d}' for i in range(n)]),
        'image_ids': np.array([f'image{i:04d}' for i in range(n)]),
        'ail': rng.random(n), 'lung_area': images.uniform(0.2, 0.4, n),
        'box_attention': rng.random(n), 'box_area': np.full(n, np.nan),
    }  # fmt: skip


def right_table(right, labels, patients, k=None):
    """Exclusive predictions that are right where `right` says so."""
    k = k or labels.max() + 1
    predictions = np.where(right, labels, (labels + 1) % k)
    ids = np.array([f'image{i:04d}' for i in range(len(labels))])
    return {'scores': np.eye(k)[predictions], 'labels': labels,
            'patients': np.asarray(patients).astype(str), 'image_ids': ids}  # fmt: skip


def models(skills, n=120, k=3, seed=0):
    """One table for each skill (share of right predictions), of the same images, two a patient."""
    rng = np.random.default_rng(seed)
    labels, patients = rng.integers(0, k, n), [f'p{i // 2:03d}' for i in range(n)]
    return [right_table(rng.random(n) < skill, labels, patients, k) for skill in skills]


def shuffled(table, order):
    """The rows `order` of a table."""
    return {name: x[order] for name, x in table.items()}
