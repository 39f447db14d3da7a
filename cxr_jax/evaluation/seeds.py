"""Figures of one model that was trained from several seeds: means, intervals, spread."""

from collections.abc import Sequence

import numpy as np

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.evaluation.cohort import Cohort, Table, aligned
from cxr_jax.evaluation.measures import attention
from cxr_jax.evaluation.measures.base import NAME, Measure, Resampled, resample


def mean_over_seeds(
    tables: Sequence[Table], names: Sequence[str], exclusive: bool, draws: Draws | None = None
) -> dict:
    """Figures of the means over seeds, ready for JSON.

    Patients are drawn once, and in each resample all seeds (or those drawn, see bootstrap.py) are
    evaluated and averaged. Beside every interval stands how much the seeds differ: 'per_seed',
    their values, and 'sd', their standard deviation (n - 1; None for one seed). Returns 'figures',
    'name_measures' and 'per_name' as measures.evaluate does, with these two in every figure;
    'n_seeds', 'images', 'patients', 'over', 'headline'; 'attention' and 'boxes': {'images',
    share, area, 'excess'}, None where a table lacks them. Of one seed they are the figures of
    measures.evaluate and attention_figures. Raises UserError if the seeds' test images differ.
    """
    draws = draws or Draws()
    titles = [f'seed number {i}' for i in range(len(tables))]
    tables, cohort = aligned(tables, names, exclusive, titles)
    found = resample(measures.of(exclusive), tables, cohort, draws)
    return {
        'n_seeds': len(tables),
        'images': len(cohort),
        'patients': cohort.n_patients,
        'over': draws.over,
        'headline': measures.headline(exclusive).name,
        'figures': measures.set_figures(found, seed_figure),
        'name_measures': {m.name: m.describe() for m in measures.of(exclusive, NAME)},
        'per_name': measures.name_rows(found, seed_figure),
        'attention': _attention(attention.LUNGS, tables, cohort, draws),
        'boxes': _attention(attention.BOXES, tables, cohort, draws),
    }


def seed_figure(found: Resampled, measure: Measure, k: int | None = None) -> dict:
    """The figure of the mean over the tables, with its 'per_seed' and 'sd'."""
    values, _ = found.of(measure, k)
    known = np.isfinite(values)
    spread = len(values) > 1 and known.all()
    return found.figure(measure, k) | {
        'per_seed': [float(x) if ok else None for x, ok in zip(values, known, strict=True)],
        'sd': float(values.std(ddof=1)) if spread else None,
    }


def _attention(
    structure: attention.Structure, tables: Sequence[Table], cohort: Cohort, draws: Draws
) -> dict | None:
    if not all(structure.in_table(table) for table in tables):
        return None
    chosen, _ = attention.MEASURES[structure]
    found = resample(chosen, tables, cohort, draws)
    keys = (structure.share, structure.area, 'excess')
    used = np.any([structure.used(table) for table in tables], axis=0)
    return {'images': int(used.sum())} | {
        key: seed_figure(found, measure) for key, measure in zip(keys, chosen, strict=True)
    }
