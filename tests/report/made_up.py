"""Results of a run with made-up numbers, in the form that write_report takes."""

import math

import numpy as np

from cxr_jax.evaluation.measures import attention_figures, evaluate
from cxr_jax.evaluation.measures.attention import BOXES

CLASSES = ['negative', 'typical', 'atypical']
FINDINGS = ['effusion', 'nodule', 'mass']


def stage(name, **changes):
    return {
        'stage': name, 'fold': None, 'key': f'{name}-0123456789abcdef', 'parent_key': '',
        'epochs': 30, 'steps': 1234, 'batch_size': 32, 'learning_rate': 0.058,
        'metrics': {'loss': 0.987, 'chance_loss': math.log(4)}, 'wall_seconds': 123.4,
        'images_per_second': 231.0, 'resumed': 0, 'reused': False, 'search': None, 'notes': [],
        'data': {'sets': [{'name': 'phantoms', 'images': 5093}], 'images': 5093, 'patients': 2501,
                 'left_out': None, 'balance': 'none'},
    } | changes  # fmt: skip


def made_up_table(exclusive=True, n=30, k=3, seed=0):
    """Predictions as cxr_jax.evaluation.cohort describes them, two images a patient.

    Tables of one n and k are of the same images.
    """
    images, rng = np.random.default_rng(k), np.random.default_rng(seed)
    if exclusive:
        labels = images.integers(0, k, n)
        scores = rng.dirichlet(np.ones(k), n) + 0.4 * (labels[:, None] == np.arange(k))
        scores /= scores.sum(1, keepdims=True)
    else:
        labels = images.choice([1, 0, -1], (n, k), p=[0.4, 0.4, 0.2])
        scores = np.clip(rng.beta(2, 3, (n, k)) + 0.2 * (labels == 1), 0, 1)
    area = np.full(n, 0.35)
    return {
        'scores': scores, 'labels': labels,
        'patients': np.array([f'p{i // 2}' for i in range(n)]),
        'image_ids': np.array([f'i{i:03d}' for i in range(n)]),
        'ail': rng.uniform(0.3, 0.8, n), 'lung_area': area,
        'box_attention': rng.uniform(0.1, 0.4, n),
        'box_area': np.where(np.arange(n) % 2, area / 4, np.nan),
    }  # fmt: skip


def figures_of(table, names, exclusive=True, resamples=200):
    """'test', 'attention' and 'boxes' of the results."""
    rest = (names, exclusive, 0, resamples)
    return {
        'test': evaluate(table, *rest),
        'attention': attention_figures(table, *rest),
        'boxes': attention_figures(table, *rest, structure=BOXES),
    }


def made_up_run(exclusive=True):
    """Arguments of write_report: 30 pictures with blobs for maps and rectangles for lungs."""
    n, size, rng = 30, 24, np.random.default_rng(1)
    names = CLASSES if exclusive else FINDINGS
    table = made_up_table(exclusive, n)
    rows, columns = np.mgrid[:size, :size]
    centres = rng.uniform(4, 20, (n, 2, 1, 1))
    masks = np.zeros((n, size, size), np.uint8)
    masks[:, 5:18, 3:10] = masks[:, 5:18, 14:21] = 1
    labels = table['labels']
    counts = np.bincount(labels, minlength=3) if exclusive else (labels == 1).sum(0)
    readout = 'classify' if exclusive else 'findings'
    results = {
        'name': 'demo', 'banner': 'not a clinical result', 'preset': 'tiny', 'region': 'full',
        'command': 'python -m cxr_jax.main --config=configs/demo.py', 'encoder': 'resnet18',
        'seed': 7, 'curriculum': ['rot', readout], 'folds': 0,
        'data': {
            'name': 'phantoms', 'fingerprint': 'cd' * 32, 'size': size, 'names': names,
            'exclusive': exclusive, 'has_patient_ids': True,
            'counts': {'train': 5093, 'test': n}, 'name_counts': {'test': counts},
        },
        'stages': [stage('rot', notes=['rate 0.058 of 6']), stage(readout, resumed=2)],
        'no_maps': '', 'retention': None, **figures_of(table, names, exclusive),
        'bundles': ['runs/stages/classify-0123'], 'params_sha256': ['ab' * 32],
        'bytes': 352 * 2**20, 'versions': {'jax': '0.10.2'},
        'device': {'kind': 'cpu', 'count': np.int64(1)},
    }  # fmt: skip
    gallery = {
        'images': rng.random((n, size, size)), 'masks': masks,
        'cams': np.exp(-((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2) / 18) - 0.1,
        **{key: table[key] for key in ('scores', 'labels', 'ail')},
    }  # fmt: skip
    logs = [[{'step': i, 'loss': 2 / (1 + i)} for i in range(40)], [{'step': 1, 'loss': 1.0}]]
    looks = [
        {'epoch': k / 2, 'step': 4 * k, 'std': 0.5, 'rank': 9.0, 'centred_rank': 20 / (1 + k),
         'positive': 0.8, 'negative': 0.6, 'alarms': ['shrunk'] if k in (5, 6, 7) else []}
        for k in range(10)
    ]  # fmt: skip
    probes = [{'epoch': k, 'step': 8 * k, 'knn': 0.3, 'ridge': 0.3 + k / 10} for k in range(3)]
    return {
        'results': results, 'curves': logs, 'predictions': table, 'gallery': gallery,
        'pretext': {'rot': {row: rng.random((3, size, size)) for row in ('clean', 'restored')}},
        'watched': [{'looks': looks, 'probes': probes}, {'looks': looks[:2], 'probes': []}],
    }  # fmt: skip
