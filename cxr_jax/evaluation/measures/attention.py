"""Share of a map's activation inside the lungs or lesion boxes, beside the share of a uniform map.

All means run over the same images, those with both numbers; `excess` is the share minus the area,
image by image.
"""

import dataclasses
import functools

import numpy as np

from cxr_jax.evaluation.bootstrap import Statistic, Statistics, ratio
from cxr_jax.evaluation.cohort import Cohort, Table
from cxr_jax.evaluation.measures.base import NAME, Measure


@dataclasses.dataclass(frozen=True)
class Structure:
    """What attention is measured inside of, and the names of its figures."""

    what: str
    share: str  # column of the table
    area: str  # column of the table
    excess: str
    without: str  # key of the number of images that lack it

    def in_table(self, table: Table) -> bool:
        return {self.share, self.area} <= table.keys()

    def used(self, table: Table) -> np.ndarray:
        """bool [N]: the images with both numbers."""
        return np.isfinite(table[self.share]) & np.isfinite(table[self.area])

    def lacking(self, cohort: Cohort, k: int | None = None) -> str:
        of = '' if k is None else f' of {cohort.what} {cohort.names[k]}'
        return f'no test image{of} with a {self.what} and a map'


LUNGS = Structure('lung mask', 'ail', 'lung_area', 'lung_excess', 'without_mask')
BOXES = Structure('lesion box', 'box_attention', 'box_area', 'box_excess', 'without_boxes')


def attention_statistic(structure: Structure, cohort: Cohort, table: Table) -> Statistic:
    """The family of a structure's measures: over all images, and (`name_`) by name."""
    share, area = (np.asarray(table[x], np.float64) for x in (structure.share, structure.area))
    used = structure.used(table)
    group = used[:, None] & np.column_stack([np.ones(len(cohort), bool), cohort.positive])
    columns = {structure.share: share, structure.area: area, structure.excess: share - area}
    images = np.zeros((cohort.n_patients, group.shape[1]))
    np.add.at(images, cohort.codes, group)
    sums = {name: np.zeros_like(images) for name in columns}
    for name, x in columns.items():
        np.add.at(sums[name], cohort.codes[used], x[used, None] * group[used])

    def statistic(counts: np.ndarray) -> Statistics:
        total = counts @ images
        means = {name: ratio(counts @ sums[name], total) for name in columns}
        return {name: x[:, 0] for name, x in means.items()} | {
            f'name_{name}': x[:, 1:] for name, x in means.items()
        }

    return statistic


def _measures(structure: Structure) -> tuple[tuple[Measure, ...], tuple[Measure, ...]]:
    """Share, area and excess of all images, and the same by name."""
    family = functools.partial(attention_statistic, structure)
    inside = f'inside the {structure.what}'
    texts = {
        structure.share: (f'attention {inside}', f'share of the map {inside}'),
        structure.area: (f'area of the {structure.what}', f'share of a uniform map {inside}'),
        structure.excess: (f'excess {inside}', f'share of the map minus the area {inside}'),
    }
    overall = tuple(
        Measure(
            name, *text, family, support=lambda cohort, table: structure.used(table),
            lacking=structure.lacking,
        )
        for name, text in texts.items()
    )  # fmt: skip
    by_name = tuple(
        Measure(
            f'name_{name}', *text, family, level=NAME, lacking=structure.lacking,
            support=lambda cohort, table: structure.used(table)[:, None] & cohort.positive,
        )
        for name, text in texts.items()
    )  # fmt: skip
    return overall, by_name


MEASURES = {structure: _measures(structure) for structure in (LUNGS, BOXES)}
