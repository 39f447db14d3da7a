"""The images that a model is judged by: their patients and labels, and tables of predictions.

A *table* holds what one model, trained from one seed, says of N images: a mapping of scores [N, K]
(probabilities), labels (exclusive: int [N], the class or -1 for none; findings: int [N, K] of 1, 0
and -1 for not known), patients [N] and image_ids [N] (str), and optionally ail, lung_area,
box_attention, box_area [N] (float, NaN where undefined). Whatever else it holds is ignored.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from data_pipelines.errors import UserError

Table = Mapping[str, np.ndarray]
COLUMNS = (
    'scores', 'labels', 'patients', 'image_ids', 'ail', 'lung_area', 'box_attention', 'box_area',
)  # fmt: skip


def columns_of(table: Table) -> dict[str, np.ndarray]:
    """The COLUMNS that a table has."""
    return {name: np.asarray(table[name]) for name in COLUMNS if name in table}


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """N images of which something is known; `names` are K classes (exclusive) or findings."""

    image_ids: np.ndarray  # [N] str
    patients: np.ndarray  # [N] str
    labels: np.ndarray  # [N] in 0..K-1 if exclusive, else [N, K] of 1, 0, -1
    names: tuple[str, ...]
    exclusive: bool

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def what(self) -> str:
        """What a name names."""
        return 'class' if self.exclusive else 'finding'

    @cached_property
    def codes(self) -> np.ndarray:
        """The patient's number of every image, [N] in 0..n_patients-1."""
        return np.unique(self.patients, return_inverse=True)[1].reshape(len(self))

    @cached_property
    def n_patients(self) -> int:
        return int(self.codes.max(initial=-1)) + 1

    @cached_property
    def positive(self) -> np.ndarray:
        """bool [N, K]: the image is of this class, or shows this finding."""
        if self.exclusive:
            return self.labels[:, None] == np.arange(len(self.names))
        return self.labels == 1

    @cached_property
    def negative(self) -> np.ndarray:
        """bool [N, K]: the image is known to be of another class, or not to show this finding."""
        return ~self.positive if self.exclusive else self.labels == 0

    @cached_property
    def both(self) -> np.ndarray:
        """bool [K]: the names with positive and with negative images."""
        return self.positive.any(0) & self.negative.any(0)

    @cached_property
    def prevalence(self) -> np.ndarray:
        """Share of the positive among the images with a label, [K]; NaN where there is none."""
        known = self.positive.sum(0) + self.negative.sum(0)
        shares = np.full(len(self.names), np.nan)
        return np.divide(self.positive.sum(0), known, out=shares, where=known > 0)

    def people(self, rows: np.ndarray) -> np.ndarray:
        """Number of patients with an image among `rows`, bool [N, C] -> [C]."""
        return np.array([len(np.unique(self.codes[column])) for column in rows.T], int)

    def lacking(self, k: int) -> str:
        """Why a figure of name k is undefined."""
        name, any_positive = self.names[k], self.positive[:, k].any()
        if self.exclusive:
            other = 'a class other than ' if any_positive else 'class '
            return f'no test image of {other}{name}'
        return f'no test image {"known to be without" if any_positive else "with"} {name}'


def labelled(table: Table, names: Sequence[str], exclusive: bool) -> tuple[dict, Cohort]:
    """The rows of `table` of which something is known, and their cohort.

    Raises ValueError where shapes or labels do not fit the names.
    """
    table = columns_of(table)
    labels, scores = table['labels'].astype(np.int64), table['scores'].astype(np.float64)
    n, k = len(labels), len(names)
    if labels.shape != ((n,) if exclusive else (n, k)) or scores.shape != (n, k):
        raise ValueError(f'labels {labels.shape} and scores {scores.shape} do not fit {k} names')
    wrong = [name for name, x in table.items() if len(x) != n]
    if wrong:
        raise ValueError(f'{n} labels, but {len(table[wrong[0]])} {wrong[0]}')
    highest = k - 1 if exclusive else 1
    if ((labels < -1) | (labels > highest)).any():
        raise ValueError(f'labels {np.unique(labels)} do not all lie in -1..{highest}')
    rows = labels >= 0 if exclusive else (labels >= 0).any(1)
    found = {name: x[rows] for name, x in table.items()}
    found |= {'labels': labels[rows], 'scores': scores[rows]}
    cohort = Cohort(
        found['image_ids'], found['patients'].astype(str), labels[rows], tuple(names), exclusive
    )
    return found, cohort


def aligned(
    tables: Sequence[Table], names: Sequence[str], exclusive: bool, titles: Sequence[str] = ()
) -> tuple[list[dict], Cohort]:
    """The labelled rows of each table by image_ids, and the cohort that they have in common.

    `titles` name the tables in the UserError raised if they are not of the same images.
    """
    titles = titles or [f'table {i}' for i in range(len(tables))]
    result, cohort = [], None
    for table, title in zip(tables, titles, strict=True):
        order = np.argsort(np.asarray(table['image_ids']), kind='stable')
        rows, found = labelled(
            {name: x[order] for name, x in columns_of(table).items()}, names, exclusive
        )
        cohort = found if cohort is None else cohort
        for key in ('image_ids', 'labels', 'patients'):
            if not np.array_equal(getattr(cohort, key), getattr(found, key)):
                raise UserError(
                    f'{titles[0]} and {title} cannot be compared: their test images differ in '
                    f'{key.replace("_", " ")} ({len(cohort)} and {len(found)} labelled '
                    'images). Both must be trained and tested on the same prepared data and '
                    'splits; remove the older of the two results and run it again.'
                )
        result.append(rows)
    return result, cohort


def pooled(tables: Sequence[Table]) -> dict:
    """One out-of-fold table from those of the folds of one seed, in their order.

    Raises UserError if an image was tested in two folds, ValueError if columns differ.
    """
    tables = [columns_of(table) for table in tables]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise ValueError('the tables of the folds differ in their columns')
    whole = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    found, times = np.unique(whole['image_ids'], return_counts=True)
    if (times > 1).any():
        raise UserError(
            f'{(times > 1).sum()} images are tested in more than one fold, such as '
            f'{found[times > 1][0]}, so that the folds are not those of one division. Remove the '
            "folds' results and run them again."
        )
    return whole
