"""A study with made-up numbers, of any size."""

import numpy as np

from cxr_jax.evaluation import metrics
from cxr_jax.study.comparison import compare_all, label_order
from cxr_jax.study.seed_means import summarise

CLASSES = ['negative', 'typical', 'indeterminate', 'atypical']
KINDS = ('baseline', 'single', 'pair', 'triple')


def made_up_study(
    curricula, regions=('full', 'lungs_black'), seeds=(0, 1), class_sets=None, n=80, resamples=60
):
    """The dict of study.json; curricula: lists of pretext tasks, or the name of a baseline."""
    class_sets = class_sets or {'4 classes': CLASSES, 'negative/typical': CLASSES[:2]}
    rng = np.random.default_rng(0)
    runs, tables = [], []
    for class_set, classes in class_sets.items():
        labels, patients = rng.integers(0, len(classes), n), [f'p{i // 2}' for i in range(n)]
        ids = np.array([f'i{i:04d}' for i in range(n)])
        areas = rng.uniform(0.25, 0.4, n), np.where(rng.random(n) < 0.6, 0.08, np.nan)
        for region in regions:
            for tasks in curricula:
                for seed in seeds:
                    run = _run(tasks, region, class_set, seed)
                    table = _table(rng, run, labels, patients, ids, areas, len(classes))
                    rest = (labels, patients, classes, seed, resamples)
                    run['test'] = metrics.classification_figures(table['probabilities'], *rest)
                    run['attention'] = metrics.attention_figures(
                        table['ail'], table['lung_area'], *rest
                    )
                    runs.append(run)
                    tables.append({**run, 'predictions': table})
    means = summarise(tables, resamples)
    _label(runs, means)
    keys = {stage['key'] for run in runs for stage in run['stages']}
    total = sum(len(run['stages']) for run in runs)
    return {
        'name': 'thesis', 'command': 'python -m cxr_jax.study --config=configs/study.py:thesis',
        'banner': 'Phantom images: not a clinical result.', 'classes': CLASSES,
        'data': {
            'name': 'synthetic_cxr', 'fingerprint': 'cd' * 32, 'size': 64, 'classes': CLASSES,
            'has_patient_ids': True, 'counts': {'train': 400, 'validation': 80, 'test': n},
            'class_counts': {'train': [100] * 4, 'validation': [20] * 4, 'test': [20] * 4},
        },
        'regions': list(regions), 'seeds': list(seeds), 'curricula': runs, 'means': means,
        'plan': {'curricula': len(curricula), 'runs': len(runs), 'stages': total,
                 'distinct': len(keys), 'shared': total - len(keys), 'trained': len(keys) - 3,
                 'found': 3, 'estimated_seconds': 5000.0},
        'comparisons': compare_all(tables, resamples=resamples),
    }  # fmt: skip


def _run(tasks, region, class_set, seed):
    baseline = isinstance(tasks, str)
    names = [] if baseline else list(tasks)
    name = tasks if baseline else '_'.join(names)
    stages = [*names, 'classify']
    keys = [f'{region}-{class_set}-{seed}-{"-".join(stages[: i + 1])}'.replace('classify', name)
            for i in range(len(stages))]  # fmt: skip
    return {
        'name': name, 'tasks': names, 'kind': KINDS[min(len(names), 3)], 'label': '',
        'region': region, 'seed': seed, 'class_set': class_set,
        'directory': f'{region}/{class_set.replace("/", "-")}/{name}/seed{seed}',
        'stages': [
            {'task': task, 'key': key, 'reused': i < len(names) - 1,
             'metrics': {'loss': 1.5 if (task, seed) == ('moco', 1) else 0.9, 'chance_loss': 1.2}}
            for i, (task, key) in enumerate(zip(stages, keys, strict=True))
        ],
        'searches': [search(task, i + seed) for i, task in enumerate(stages)],
    }  # fmt: skip


def search(task, seed=0, protocol='thesis'):
    """A search.json: a grid of six rates, or nine of successive halving on a log scale."""
    rng = np.random.default_rng(seed)
    metric = {'moco': 'loss', 'swav': 'loss', 'classify': 'balanced_accuracy'}.get(task, 'accuracy')
    higher = metric != 'loss'
    rates = np.linspace(0.01, 0.25, 6) if protocol == 'thesis' else np.geomspace(1e-4, 1, 9)
    trials = []
    for i, rate in enumerate(rates):
        rungs = [20] if protocol == 'thesis' else [7, 20][: 2 if i in (3, 4, 5) else 1]
        epochs = np.arange(1, rungs[-1] + 1)
        best = 0.9 - 0.08 * abs(i - len(rates) // 2) + rng.normal(0, 0.01)
        curve = best * (1 - np.exp(-epochs / 5)) + rng.normal(0, 0.01, len(epochs))
        values = curve if higher else 8 - 2 * curve
        trials.append({
            'lr': float(f'{rate:.6g}'), 'batch_size': 32, 'epochs': epochs.tolist(),
            'values': values.tolist(), 'losses': (2 - curve).tolist(), 'rungs': rungs,
            'chosen': i == len(rates) // 2,
        })  # fmt: skip
    trials[-1] |= {'values': [*trials[-1]['values'][:3], None], 'epochs': [1, 2, 3, rungs[-1]]}
    return {'task': task, 'protocol': protocol, 'metric': metric, 'higher_is_better': higher,
            'epochs': 20, 'trials': trials,
            'total_epochs': sum(len(t['losses']) for t in trials)}  # fmt: skip


def _table(rng, run, labels, patients, ids, areas, k):
    n = len(labels)
    skill = 0.3 + 0.12 * len(run['tasks']) + 0.1 * (run['region'] == 'full') + 0.05 * rng.random()
    scores = rng.dirichlet(np.ones(k), n) + skill * (labels[:, None] == np.arange(k))
    inside = np.clip(areas[0] + 0.1 * rng.normal(size=n) + 0.05 * len(run['tasks']), 0, 1)
    return {
        'probabilities': scores / scores.sum(1, keepdims=True), 'labels': labels,
        'patients': np.array(patients), 'image_ids': ids, 'ail': inside, 'lung_area': areas[0],
        'box_attention': rng.beta(2, 8, n), 'box_area': areas[1],
    }  # fmt: skip


def _label(runs, means):
    """Order labels by the means of the single tasks of the same region and class set."""
    singles = {
        (m['region'], m['class_set'], m['name']): m['balanced_accuracy']['value']
        for m in means
        if m['kind'] == 'single'
    }
    pretext = {task for run in runs for task in run['tasks']}
    for run in runs:
        place = (run['region'], run['class_set'])
        results = {task: singles.get((*place, task)) for task in pretext}
        run['label'] = label_order(run['tasks'], results, pretext)
