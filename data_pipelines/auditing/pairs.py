"""Images of one or several prepared sets that are the same, nearly the same, or of one person."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipelines.auditing.near import near_pairs
from data_pipelines.auditing.reasons import CONSTANT
from data_pipelines.auditing.stored import Looks
from data_pipelines.prepared.data import PreparedSet
from data_pipelines.prepared.index import NO, YES

EXACT, NEAR, PATIENT, STUDY = KINDS = ('exact', 'near', 'patient', 'study')


@dataclass(frozen=True)
class Pair:
    """Two images, numbered through all sets."""

    a: int
    b: int
    kind: str
    agreement: float = 1.0  # of their details
    conflict: tuple[str, ...] = ()  # what one is said to show and the other not


@dataclass(frozen=True, eq=False)
class Images:
    """All images of several sets, one after the other."""

    sets: tuple[PreparedSet, ...]
    looks: tuple[Looks, ...]

    def column(self, field: str) -> np.ndarray:
        return np.concatenate([getattr(each.index, field) for each in self.sets])

    @functools.cached_property
    def of_set(self) -> np.ndarray:
        """Number of each image's set, int64 [N]."""
        return np.repeat(np.arange(len(self.sets)), [len(each.index) for each in self.sets])

    def place(self, number: int) -> tuple[int, int]:
        """(number of the set, stored row)."""
        of = int(self._ends.searchsorted(number, 'right'))
        return of, number - (int(self._ends[of - 1]) if of else 0)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(each.index) for each in self.sets])

    def said(self, number: int) -> dict[str, int]:
        """{name: YES or NO} of an image."""
        of, row = self.place(number)
        labels = self.sets[of].index.labels[row].tolist()
        return {n: v for n, v in zip(self.sets[of].names, labels, strict=True) if v in (YES, NO)}


def find_pairs(images: Images) -> list[Pair]:
    """Exact copies (each with the first of them), near copies, and persons and studies that are in
    several sets or splits: of each person one pair for any two of these."""
    exact = list(_exact(images))
    return [*exact, *_near(images, {pair.b for pair in exact}), *_shared(images)]


def _exact(images: Images) -> Iterator[Pair]:
    first = {}
    for number, content in enumerate(images.column('content').tolist()):
        if content in first:
            yield _copies(images, first[content], number, EXACT, 1.0)
        first.setdefault(content, number)


def _near(images: Images, copies: set[int]) -> Iterator[Pair]:
    spread = np.concatenate([each.measures[:, 0] for each in images.looks])
    # Copies of copies tell nothing new; without contrast everything looks the same.
    kept = (spread >= CONSTANT) & ~np.isin(np.arange(len(spread)), list(copies))
    numbers = np.flatnonzero(kept)
    found = near_pairs(np.concatenate([each.looks for each in images.looks])[numbers])
    for i, j, agreement in zip(found.i, found.j, found.agreement, strict=True):
        yield _copies(images, int(numbers[i]), int(numbers[j]), NEAR, float(agreement))


def _copies(images: Images, a: int, b: int, kind: str, agreement: float) -> Pair:
    one, other = images.said(a), images.said(b)
    conflict = tuple(name for name in one if other.get(name, one[name]) != one[name])
    return Pair(a, b, kind, agreement, conflict)


def _shared(images: Images) -> Iterator[Pair]:
    split, of_set = images.column('split').tolist(), images.of_set.tolist()
    patients = images.column('patient').tolist()
    for kind, ids in ((PATIENT, patients), (STUDY, images.column('study').tolist())):
        places = {}  # id -> {(set, split): its first image there}
        for number, each in enumerate(ids):
            if each:
                here = of_set[number], split[number]
                places.setdefault(each, {}).setdefault(here, number)
        for found in places.values():
            for a, b in itertools.combinations(found.values(), 2):
                # A study of a person who was told of tells nothing new.
                if kind == PATIENT or not patients[a] or patients[a] != patients[b]:
                    yield Pair(a, b, kind)
