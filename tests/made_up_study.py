"""A study with made-up numbers, of any size, as described in cxr_jax.report.study_page.

Figures of single runs are those of their made-up predictions; means are those of their seeds;
intervals and comparisons are drawn, not computed.
"""

import itertools

import numpy as np

from cxr_jax.evaluation.measures import attention_figures, evaluate
from cxr_jax.evaluation.measures.attention import BOXES
from tests.report.made_up import made_up_table, stage

CLASSES = ['negative', 'typical', 'indeterminate', 'atypical']
FINDINGS = ['effusion', 'nodule', 'mass']
KINDS = ('baseline', 'single', 'pair', 'triple')
BEST = 'best single task'


def made_up_study(
    curricula, regions=('full', 'lungs_black'), seeds=(0, 1), targets=None, exclusive=True, n=80
):
    """curricula: lists of pretext tasks, or the name of a baseline; targets: {level: names}."""
    names = CLASSES if exclusive else FINDINGS
    targets = targets or {'4 classes': names, 'negative/typical': names[:2]}
    levels = {title_of(tasks): tasks for tasks in curricula}
    axes = {'curriculum': [_name(tasks) for tasks in curricula], 'region': list(regions),
            'classes': list(targets)}  # fmt: skip
    cells = [
        _cell(tasks, region, target, seed, targets[target], exclusive, n)
        for target, region, tasks, seed in itertools.product(
            targets, regions, levels.values(), seeds
        )
    ]
    rng = np.random.default_rng(0)
    means = [
        _mean(group, rng)
        for group in _groups(cells, lambda cell: tuple(cell['levels'].values()))
    ]
    test = cells[0]['test']
    described = {name: _describe(x) for name, x in test['figures'].items()}
    described |= test['name_measures']
    keys = {stage['key'] for cell in cells for stage in cell['stages']}
    total = sum(len(cell['stages']) for cell in cells)
    return {
        'name': 'thesis', 'command': 'python -m cxr_jax.study --config=configs/study.py:thesis',
        'banner': 'Phantom images: not a clinical result.',
        'data': {
            'name': 'synthetic_cxr', 'fingerprint': 'cd' * 32, 'size': 64, 'names': names,
            'exclusive': exclusive, 'has_patient_ids': True,
            'counts': {'train': 400, 'validation': 80, 'test': n},
            'name_counts': {
                split: [k] * len(names)
                for split, k in (('train', 100), ('validation', 20), ('test', 20))
            },
        },
        'axes': axes, 'layout': {'rows': 'curriculum', 'columns': 'region'},
        'seeds': list(seeds), 'folds': 0, 'measures': described, 'headline': test['headline'],
        'cells': cells, 'means': means,
        'plan': {'runs': len(cells), 'stages': total, 'distinct': len(keys),
                 'shared': total - len(keys), 'trained': len(keys) - 3, 'found': 3,
                 'estimated_seconds': 5000.0, 'bytes': 3 * 2**30},
        'comparisons': _comparisons(axes, means, test['headline'], rng),
    }  # fmt: skip


def title_of(tasks):
    return tasks if isinstance(tasks, str) else ' → '.join(tasks)


def _name(tasks):
    return tasks if isinstance(tasks, str) else '_'.join(tasks)


def _groups(items, key):
    found = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found.values()


def _describe(found):
    return {key: found[key] for key in ('title', 'meaning', 'unit', 'higher_is_better')}


def _cell(tasks, region, target, seed, names, exclusive, n):
    pretext = [] if isinstance(tasks, str) else list(tasks)
    table = made_up_table(exclusive, n, len(names), seed + 10 * len(pretext))
    rest = (names, exclusive, seed, 20)
    return {
        'levels': {'curriculum': _name(tasks), 'region': region, 'classes': target},
        'title': title_of(tasks), 'kind': KINDS[min(len(pretext), 3)],
        'label': ['', '', 'curriculum', 'full mixed'][min(len(pretext), 3)], 'seed': seed,
        'directory': f'{region}/{target.replace("/", "-")}/{_name(tasks)}/seed{seed}',
        'region': region, 'stages': _stages(tasks, pretext, region, target, seed, exclusive),
        'test': evaluate(table, *rest), 'attention': attention_figures(table, *rest),
        'boxes': attention_figures(table, *rest, structure=BOXES),
    }  # fmt: skip


def _stages(tasks, pretext, region, target, seed, exclusive):
    """A stage is shared by the curricula that begin with the same tasks."""
    stages, key = [], f'{region}-{target}-{seed}'
    if not pretext:
        key = f'{key}-{tasks}'
    readout = 'classify' if exclusive else 'findings'
    for i, name in enumerate([*pretext, readout]):
        parent, key = (key if i else ''), f'{key}-{name}'
        loss = 1.5 if (name, seed) == ('moco', 1) else 0.9
        stages.append(stage(
            name, key=key, parent_key=parent, reused=i < len(pretext) - 1,
            metrics={'loss': loss, 'chance_loss': 1.2}, search=search(name, i + seed),
        ))  # fmt: skip
    return stages


def search(name, seed=0, protocol='thesis', metric=None):
    """A search.json: a grid of six rates, or nine of successive halving on a log scale."""
    rng = np.random.default_rng(seed)
    metric = metric or ('loss' if name in ('moco', 'swav') else 'accuracy')
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
    return {'task': name, 'protocol': protocol, 'metric': metric, 'higher_is_better': higher,
            'epochs': 20, 'trials': trials,
            'total_epochs': sum(len(t['losses']) for t in trials)}  # fmt: skip


def _mean_figure(figures, rng):
    values = [figure['value'] for figure in figures]
    value = float(np.mean(values))
    low, high = value - rng.uniform(0.02, 0.06), value + rng.uniform(0.02, 0.06)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'value': value, 'low': low, 'high': high, 'reason': '', 'per_seed': values, 'sd': sd}


def _mean(cells, rng):
    """Of the cells that differ in their seed alone."""
    first = cells[0]
    tests = [cell['test'] for cell in cells]

    def inside(part):
        keys = [key for key, x in first[part].items() if isinstance(x, dict)]
        return {'images': first[part]['images']} | {
            key: _mean_figure([cell[part][key] for cell in cells], rng) for key in keys
        }

    return {
        **{key: first[key] for key in ('levels', 'title', 'kind', 'label')},
        'seeds': [cell['seed'] for cell in cells],
        'images': tests[0]['images'], 'patients': tests[0]['patients'],
        'figures': {
            name: _mean_figure([test['figures'][name]['figure'] for test in tests], rng)
            for name in tests[0]['figures']
        },
        'per_name': [
            {
                'name': row['name'],
                'figures': {
                    name: _mean_figure([t['per_name'][k]['figures'][name] for t in tests], rng)
                    for name in row['figures']
                },
            }
            for k, row in enumerate(tests[0]['per_name'])
        ],
        'attention': inside('attention'), 'boxes': inside('boxes'),
    }  # fmt: skip


def _comparisons(axes, means, headline, rng):
    """Of every curriculum with both baselines and the best single one, by region."""
    rows, families = [], []
    for region in axes['region']:
        family = []
        for target in axes['classes']:
            place = {'region': region, 'classes': target}
            group = [mean for mean in means if place.items() <= mean['levels'].items()]
            value = {m['levels']['curriculum']: m['figures'][headline]['value'] for m in group}
            single = [m['levels']['curriculum'] for m in group if m['kind'] == 'single']
            best = max(single, key=value.get, default='')
            roles = {'scratch': 'scratch', 'imagenet': 'imagenet', best: BEST}
            references = [name for name in roles if name in value]
            for i, reference in enumerate(references):
                for name in value:
                    if name not in references[: i + 1]:
                        family.append({
                            'levels': place, 'first': name, 'second': reference,
                            'role': roles[reference], 'seeds': group[0]['seeds'],
                            'difference': _mean_figure(
                                [{'value': value[name] - value[reference]}], rng
                            ),
                            'p': float(rng.uniform()), 'p_holm': 1.0,
                            'images': group[0]['images'], 'patients': group[0]['patients'],
                        })  # fmt: skip
        families.append({'levels': {'region': region}, 'comparisons': len(family)})
        rows += family
    return {
        'axis': 'curriculum', 'measure': headline, 'statistic': 'the headline, mean over the seeds',
        'p_value': 'two-sided, of |d* - d| >= |d|', 'over': 'patients', 'resamples': 60, 'seed': 0,
        'confidence': 0.95, 'families': families, 'comparisons': rows,
    }  # fmt: skip
