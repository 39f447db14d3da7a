"""Models compared on the same test images: paired bootstrap, Holm's correction, order labels.

The predictions of one model trained from one seed are a *table*: a mapping of probabilities [N, K],
labels [N], patients [N], image_ids [N], and optionally ail, lung_area, box_attention, box_area
[N]; rows without a label (< 0) are left out, and their order does not matter. Every bootstrap
draws patients once and evaluates all tables on the same draws.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from cxr_jax.evaluation.bootstrap import CONFIDENCE, Statistics, figure, patient_bootstrap, ratio
from cxr_jax.evaluation.metrics import checked_rows
from data_pipelines.errors import UserError

# The least p-value is 1 / 10,001, which stays below 0.05 in a family of 500 comparisons.
RESAMPLES = 10_000
BEST_SINGLE = 'best single task'
REFERENCES = ('scratch', 'imagenet', BEST_SINGLE)
P_VALUE = (
    'two-sided, p = (1 + number of resamples in which |d* - d| >= |d|) / (1 + resamples), '
    'd the observed difference, d* that of a resample'
)
_TIE = 1e-12  # rounding of a mean over classes and seeds


def paired_difference(
    first: Sequence[Mapping], second: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """Balanced accuracy of `first` minus that of `second`, each a list of tables (one a seed).

    The statistic is the difference of the means over seeds. Returns {'difference': figure (see
    evaluation/bootstrap.py), 'p': float or None, 'images', 'patients'}. The p-value is that of the
    bootstrap distribution moved to a difference of zero (Efron and Tibshirani 1993, ch. 16):
    P_VALUE; it is 1 for equal models and never 0. Resamples in which a class vanishes do not
    count. Raises UserError if the test images differ.
    """
    tables = [*first, *second]
    scores = _bootstrap(tables, [f'table {i}' for i in range(len(tables))], resamples, seed)
    columns = np.arange(len(tables))
    return _difference(scores, columns[: len(first)], columns[len(first) :])


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1; none falls below a smaller one's, none
    exceeds 1. A p-value that is missing (None) counts in m as the largest, and stays None.
    """
    filled = np.array([1.0 if p is None else p for p in p_values])
    order = np.argsort(filled, kind='stable')
    steps = filled[order] * np.arange(len(filled), 0, -1)
    adjusted = np.empty(len(filled))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [None if p is None else float(x) for p, x in zip(p_values, adjusted, strict=True)]


def compare_all(
    runs: Sequence[Mapping],
    references: Sequence[str] = REFERENCES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Every curriculum of a region and class set against each reference, ready for JSON.

    runs: {'name', 'region', 'class_set', 'seed', 'kind', 'predictions': table}; references: names
    of curricula (left out where absent) and BEST_SINGLE, the curriculum of kind 'single' with the
    highest balanced accuracy there. It is chosen on the test images, which favours it: the test
    against it is a strict one. A pair is compared over the seeds that both have, and once, also
    if each is a reference. Holm's correction runs over all comparisons of a region, class sets
    together. Returns {'statistic', 'p_value': texts, 'resamples', 'seed', 'confidence',
    'families': [{'region', 'comparisons': their number, 'best_single': {class set: name}}],
    'comparisons': [{'region', 'class_set', 'name', 'reference', 'role': as in `references`,
    'seeds', 'difference', 'p', 'p_holm', 'images', 'patients'}]}.
    Raises UserError if two runs to be compared were tested on different images.
    """
    families, rows = [], []
    for region in distinct(run['region'] for run in runs):
        inside = [run for run in runs if run['region'] == region]
        family, best = [], {}
        for class_set in distinct(run['class_set'] for run in inside):
            group = [run for run in inside if run['class_set'] == class_set]
            found, best[class_set] = _compare_group(group, references, resamples, seed)
            family += [{'region': region, 'class_set': class_set, **row} for row in found]
        for row, p in zip(family, holm([row['p'] for row in family]), strict=True):
            row['p_holm'] = p
        families.append({'region': region, 'comparisons': len(family), 'best_single': best})
        rows += family
    return {
        'statistic': 'balanced accuracy, mean over the seeds',
        'p_value': P_VALUE,
        'resamples': resamples,
        'seed': seed,
        'confidence': CONFIDENCE,
        'families': families,
        'comparisons': rows,
    }


def label_order(
    tasks: Sequence[str], single_results: Mapping[str, float], pretext_tasks: Iterable[str]
) -> str:
    """What the order of a curriculum's pretext tasks is called (the deliverable's definition).

    single_results: balanced accuracy of each task alone (same region and class set, mean over the
    seeds). 'curriculum' if it rises from each task to the next, 'anti-curriculum' if it falls,
    else 'mixed' (also at a tie); '' for fewer than two tasks or a result that is missing. A
    curriculum of all `pretext_tasks` of the study is 'full', followed by its order ('full
    curriculum', 'full mixed', ...): the number of tasks and their order are two properties, and
    the full curricula are the ones whose orders one most wants to compare.
    """
    if len(tasks) < 2:
        return ''
    words = ['full'] if set(tasks) >= set(pretext_tasks) else []
    if all(single_results.get(task) is not None for task in tasks):
        steps = np.diff([single_results[task] for task in tasks])
        words.append(
            'curriculum' if (steps > 0).all()
            else 'anti-curriculum' if (steps < 0).all()
            else 'mixed'
        )  # fmt: skip
    return ' '.join(words)


def aligned(tables: Sequence[Mapping], titles: Sequence[str]) -> tuple[list[dict], np.ndarray, int]:
    """The labelled rows of each table by image_ids; the patient of each row; their number.

    `titles` name the tables in the UserError raised if they are not of the same images.
    """
    result = []
    for table, title in zip(tables, titles, strict=True):
        rows = np.flatnonzero(np.asarray(table['labels']) >= 0)
        rows = rows[np.argsort(np.asarray(table['image_ids'])[rows], kind='stable')]
        result.append({name: np.asarray(x)[rows] for name, x in table.items()})
        for key in ('image_ids', 'labels', 'patients'):
            if not np.array_equal(result[0][key], result[-1][key]):
                raise UserError(
                    f'{titles[0]} and {title} cannot be compared: their test images differ in '
                    f'{key.replace("_", " ")} ({len(result[0][key])} and {len(rows)} labelled '
                    'images). Both must be trained and tested on the same prepared data and '
                    'splits; remove the older of the two results and run it again.'
                )
    first = result[0]
    _, codes, n_patients = checked_rows(
        first['labels'], first['patients'], first['probabilities'].shape[1]
    )
    return result, codes, n_patients


def accuracy_statistic(
    tables: Sequence[Mapping], codes: np.ndarray, n_patients: int
) -> Callable[[np.ndarray], Statistics]:
    """For patient_bootstrap: 'balanced_accuracy' and ('class', c) of every table, [b, M] each."""
    labels = tables[0]['labels']
    classes = np.arange(tables[0]['probabilities'].shape[1])
    one_hot = labels[:, None] == classes
    present = one_hot.any(0)
    right = np.stack([table['probabilities'].argmax(1) == labels for table in tables], axis=1)
    images = np.zeros((n_patients, len(classes)))
    hits = np.zeros((n_patients, len(tables), len(classes)))
    np.add.at(images, codes, one_hot)
    np.add.at(hits, codes, right[:, :, None] & one_hot[:, None])
    hits = hits.reshape(n_patients, -1)

    def statistic(counts: np.ndarray) -> Statistics:
        found = (counts @ hits).reshape(-1, len(tables), len(classes))
        accuracy = ratio(found, (counts @ images)[:, None])
        mean = ratio(accuracy[..., present].sum(-1), present.sum())
        return {'balanced_accuracy': mean} | {('class', c): accuracy[..., c] for c in classes}

    return statistic


def distinct(items: Iterable) -> list:
    """Each item once, in the order of its first appearance."""
    return list(dict.fromkeys(items))


def _compare_group(
    group: Sequence[Mapping], references: Sequence[str], resamples: int, seed: int
) -> tuple[list[dict], str | None]:
    """The comparisons within one region and class set, and the name of the best single task."""
    titles = [f'{run["name"]} ({run["region"]}, seed {run["seed"]})' for run in group]
    scores = _bootstrap([run['predictions'] for run in group], titles, resamples, seed)
    columns = {name: {} for name in distinct(run['name'] for run in group)}
    for column, run in enumerate(group):
        columns[run['name']][run['seed']] = column
    singles = distinct(run['name'] for run in group if run['kind'] == 'single')
    means = {name: scores['value'][list(columns[name].values())].mean() for name in singles}
    best = max(means, key=means.get, default=None)
    rows, done = [], set()
    for role in references:
        reference = best if role == BEST_SINGLE else role
        for name in columns:
            pair = frozenset((name, reference))
            if reference not in columns or len(pair) < 2 or pair in done:
                continue
            done.add(pair)
            seeds = [s for s in columns[name] if s in columns[reference]]
            chosen = [np.array([columns[x][s] for s in seeds], int) for x in (name, reference)]
            row = {'name': name, 'reference': reference, 'role': role, 'seeds': seeds}
            rows.append(row | _difference(scores, *chosen))
    return rows, best


def _bootstrap(tables: Sequence[Mapping], titles: Sequence[str], resamples: int, seed: int) -> dict:
    """Balanced accuracy of every table: value [M], samples [resamples, M]."""
    tables, codes, n_patients = aligned(tables, titles)
    statistic = accuracy_statistic(tables, codes, n_patients)

    def balanced(counts: np.ndarray) -> Statistics:
        return {'balanced': statistic(counts)['balanced_accuracy']}

    return {
        'value': balanced(np.ones((1, n_patients)))['balanced'][0],
        'samples': patient_bootstrap(balanced, n_patients, len(codes), resamples, seed)['balanced'],
        'images': len(codes),
        'patients': n_patients,
    }


def _difference(scores: dict, first: np.ndarray, second: np.ndarray) -> dict:
    """Columns `first` minus columns `second`, each averaged; see paired_difference."""
    sizes = {key: scores[key] for key in ('images', 'patients')}
    if not (len(first) and len(second)):
        nothing = {'value': None, 'low': None, 'high': None, 'reason': 'no seed in common'}
        return {'difference': nothing, 'p': None, **sizes}
    value = scores['value'][first].mean() - scores['value'][second].mean()
    samples = scores['samples'][:, first].mean(1) - scores['samples'][:, second].mean(1)
    found, p = figure(value, samples, scores['patients']), None
    if found['low'] is not None:
        usable = samples[np.isfinite(samples)]
        as_far = np.abs(usable - value) >= abs(value) - _TIE
        p = float((1 + as_far.sum()) / (1 + len(usable)))
    return {'difference': found, 'p': p, **sizes}
