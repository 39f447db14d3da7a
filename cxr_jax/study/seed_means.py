"""Figures of a curriculum trained from several seeds: means, intervals, spread.

Tables of predictions as in cxr_jax.study.comparison.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cxr_jax.evaluation.bootstrap import RESAMPLES, Statistics, figure, patient_bootstrap
from cxr_jax.evaluation.metrics import BOXES, LUNGS, Structure, attention_statistic
from cxr_jax.study.comparison import accuracy_statistic, aligned, distinct


def summarise(runs: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """mean_over_seeds of every curriculum; `runs` as in compare_all.

    Returns one {'name', 'region', 'class_set', 'kind', 'seeds', ...} each, in the order of `runs`.
    """
    keys = ('region', 'class_set', 'name')
    found = []
    for identity in distinct(tuple(run[key] for key in keys) for run in runs):
        mine = [run for run in runs if tuple(run[key] for key in keys) == identity]
        row = dict(zip(keys, identity, strict=True))
        row |= {'kind': mine[0]['kind'], 'seeds': [run['seed'] for run in mine]}
        found.append(row | mean_over_seeds([run['predictions'] for run in mine], resamples, seed))
    return found


def mean_over_seeds(tables: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Figures of one model trained from several seeds, ready for JSON.

    Each is the figure of the mean over the seeds: patients are drawn once, and in each resample
    all seeds are evaluated and averaged. The interval so covers the choice of patients; how much
    the seeds differ stands beside it, as 'per_seed' (their values) and 'sd' (their standard
    deviation, n - 1; None for one seed). Returns {'n_seeds', 'images', 'patients',
    'balanced_accuracy': figure, 'class_accuracy': [K figures], 'attention': {'images', 'ail',
    'lung_area', 'excess'}, 'boxes': {'images', 'box_attention', 'box_area', 'excess'}}, the last
    two None where a table lacks them. Of one seed they are the figures of evaluation/metrics.py.
    Raises UserError if the seeds' test images differ.
    """
    names = [f'seed number {i}' for i in range(len(tables))]
    tables, codes, n_patients = aligned(tables, names)
    labels, images = tables[0]['labels'], len(codes)
    classes = tables[0]['probabilities'].shape[1]
    present = np.bincount(labels, minlength=classes) > 0
    absent = '' if present.all() else f'mean over the {present.sum()} classes with test images'
    # Name of each figure -> its number of patients, and the reason why it is restricted.
    notes = {'balanced_accuracy': (n_patients, absent)}
    for c in range(classes):
        reason = '' if present[c] else 'no test image of this class'
        notes['class', c] = len(np.unique(codes[labels == c])), reason
    parts, counted = [accuracy_statistic(tables, codes, n_patients)], {}
    inside = {'attention': LUNGS, 'boxes': BOXES}
    for part, structure in inside.items():
        if all({structure.share, structure.area} <= table.keys() for table in tables):
            statistic, used = _attention(part, structure, tables, codes, n_patients)
            parts.append(statistic)
            counted[part] = int(used.sum())
            reason = '' if used.any() else f'no test image with a {structure.what} and a map'
            for name in (structure.share, structure.area, 'excess'):
                notes[part, name] = len(np.unique(codes[used])), reason

    def statistic(counts: np.ndarray) -> Statistics:
        return {name: x for part in parts for name, x in part(counts).items()}

    value = statistic(np.ones((1, n_patients)))
    samples = patient_bootstrap(statistic, n_patients, images, resamples, seed)
    figures = {
        name: _mean_figure(value[name][0], samples[name], *note) for name, note in notes.items()
    }
    attention = {
        part: {'images': counted[part]}
        | {name: figures[part, name] for name in (of.share, of.area, 'excess')}
        if part in counted
        else None
        for part, of in inside.items()
    }
    return {
        'n_seeds': len(tables),
        'images': images,
        'patients': n_patients,
        'balanced_accuracy': figures['balanced_accuracy'],
        'class_accuracy': [figures['class', c] for c in range(classes)],
        **attention,
    }


def _mean_figure(per_seed: np.ndarray, samples: np.ndarray, people: int, reason: str) -> dict:
    """The figure of the mean of per_seed [S] with resamples [B, S], and the spread of per_seed."""
    known = np.isfinite(per_seed)
    spread = len(per_seed) > 1 and known.all()
    return figure(per_seed.mean(), samples.mean(1), people, reason) | {
        'per_seed': [float(x) if ok else None for x, ok in zip(per_seed, known, strict=True)],
        'sd': float(per_seed.std(ddof=1)) if spread else None,
    }


def _attention(
    part: str, structure: Structure, tables: Sequence[Mapping], codes: np.ndarray, n_patients: int
) -> tuple[Callable[[np.ndarray], Statistics], np.ndarray]:
    """For patient_bootstrap: (part, name of a figure) of every table; the images used, bool [N]."""
    each, anywhere = [], np.zeros(len(codes), bool)
    for table in tables:
        share, area = (np.asarray(table[key], float) for key in (structure.share, structure.area))
        used = np.isfinite(share) & np.isfinite(area)
        anywhere |= used
        each.append(attention_statistic(share, area, used[:, None], codes, n_patients))

    def statistic(counts: np.ndarray) -> Statistics:
        found = [one(counts) for one in each]
        names = {'share': structure.share, 'area': structure.area, 'excess': 'excess'}
        return {
            (part, name): np.concatenate([x[key] for x in found], axis=1)
            for key, name in names.items()
        }

    return statistic, anywhere
