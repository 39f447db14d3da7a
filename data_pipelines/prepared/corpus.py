"""A corpus: chosen images of one or several prepared sets. Choosing reads no pixels."""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.prepared.statistics import REGIONS, statistics

if TYPE_CHECKING:
    from data_pipelines.prepared.data import PreparedSet


@dataclass(frozen=True)
class LeftOut:
    """How many images `Corpus.without` left out, and why."""

    images: int = 0
    same_patient: int = 0  # patient, study or image are the same
    same_content: int = 0  # the pixels are the same, and nothing else is


@dataclass(frozen=True, eq=False)
class Corpus:
    """Rows of prepared sets of one size and bit depth, in order: (set, its stored rows, ascending).

    Image i of the corpus is the i-th of all these rows, counted through the parts. UserError for
    sets that differ in size or bits, or of which some are grey and some in colour.
    """

    parts: tuple[tuple['PreparedSet', np.ndarray], ...]

    def __post_init__(self):
        if not self.parts:
            raise ValueError('a corpus needs a set, though it may have no rows')
        parts = tuple((prepared, np.asarray(rows, np.int64)) for prepared, rows in self.parts)
        object.__setattr__(self, 'parts', parts)
        first = parts[0][0]
        for prepared, _ in parts:
            if (prepared.size, prepared.bits) != (first.size, first.bits):
                raise UserError(
                    f'{prepared.directory} has {prepared.size} px of {prepared.bits} bits, '
                    f'{first.directory} {first.size} px of {first.bits} bits; they cannot be used '
                    'together. Prepare one of them again with the --size and --bits of the other.'
                )
            if prepared.channels != first.channels:
                grey, colour = sorted((prepared, first), key=lambda each: each.channels)
                raise UserError(
                    f'{grey.directory} is grey and {colour.directory} in colour; their images '
                    'cannot be mixed. Prepare the images of the latter with --dataset '
                    'image_folder, which makes them grey, or give each set a stage of its own.'
                )

    def __len__(self) -> int:
        return int(self.ends[-1])

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Where each part ends: int64, ascending."""
        return np.cumsum([len(rows) for _, rows in self.parts])

    @property
    def sets(self) -> tuple['PreparedSet', ...]:
        return tuple(prepared for prepared, _ in self.parts)

    @property
    def size(self) -> int:
        return self.parts[0][0].size

    @property
    def bits(self) -> int:
        return self.parts[0][0].bits

    @property
    def channels(self) -> int:
        return self.parts[0][0].channels

    @property
    def title(self) -> str:
        """'nih14 + mine'."""
        return ' + '.join(dict.fromkeys(prepared.name for prepared in self.sets))

    def column(self, field: str) -> np.ndarray:
        """A column [N] of the index (index.Index), or 'set': the name of each image's set."""
        if field == 'set':
            columns = [np.full(len(rows), prepared.name) for prepared, rows in self.parts]
        else:
            columns = [getattr(prepared.index, field)[rows] for prepared, rows in self.parts]
        if field == 'labels' and len({prepared.names for prepared in self.sets}) > 1:
            raise ValueError('sets of different names have no labels in common: use a Target')
        return np.concatenate(columns)

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """What must not be torn apart, str [N]: the patient, else the study."""
        patient = self.column('patient')
        return np.where(patient == '', self.column('study'), patient)

    @property
    def has_lung_masks(self) -> bool:
        """Whether every image has one."""
        return bool(self.column('has_mask').all())

    def take(self, where: np.ndarray) -> 'Corpus':
        """The images where bool [N] is true, or of these numbers, ascending."""
        where = np.asarray(where)
        numbers = np.flatnonzero(where) if where.dtype == bool else where.astype(np.int64)
        if where.dtype == bool and len(where) != len(self):
            raise ValueError(f'{len(where)} truth values for {len(self)} images')
        if (np.diff(numbers) <= 0).any() or (numbers < 0).any() or (numbers >= len(self)).any():
            raise ValueError(f'the numbers must ascend and be below {len(self)}')
        bounds = np.searchsorted(numbers, [0, *self.ends])
        starts = [0, *self.ends[:-1]]
        return Corpus(
            tuple(
                (prepared, rows[numbers[bounds[k] : bounds[k + 1]] - starts[k]])
                for k, (prepared, rows) in enumerate(self.parts)
            )
        )

    def fraction(self, share: float, seed: int, strata: np.ndarray | None = None) -> 'Corpus':
        """A random `share` of the groups of every stratum, at least one.

        With the same seed and strata a smaller share is part of a larger one; 1 is this corpus.
        `strata`: int [N]; a group counts for its rarest. The choice depends on the order of the
        images, never on pseudonyms, which are another machine's to draw.
        """
        if not 0 < share <= 1:
            raise UserError(f'A fraction of the images must be above 0 and at most 1, not {share}.')
        if share == 1:
            return self
        chosen = []
        group_of, members = self._strata(seed, strata)
        for groups in members:
            chosen += groups[: max(1, int(share * len(groups) + 0.5))]
        return self.take(np.isin(group_of, chosen))

    def folds(self, n: int, seed: int, strata: np.ndarray | None = None) -> np.ndarray:
        """The fold, 0 .. n-1, of each image, int64 [N].

        A group lies in one fold. The folds' numbers of groups of a stratum differ by at most 1,
        their numbers of images by at most those of the largest group. As `fraction`, the same on
        every machine.
        """
        group_of, members = self._strata(seed, strata)
        sizes = np.bincount(group_of)
        if not 2 <= n <= len(sizes):
            raise UserError(
                f'{len(sizes)} patients (or studies) of {self.title} cannot be shared out among '
                f'{n} folds; there must be 2 or more folds, and a patient for each.'
            )
        fold_of = np.zeros(len(sizes), np.int64)
        images, dealt = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for groups in members:
            dealt[:] = 0
            # Large groups first, so that small ones even out what they leave.
            for group in sorted(groups, key=lambda group: -sizes[group]):
                fold = min(range(n), key=lambda k: (dealt[k], images[k]))
                fold_of[group] = fold
                dealt[fold] += 1
                images[fold] += sizes[group]
        return fold_of[group_of]

    def _strata(self, seed: int, strata: np.ndarray | None) -> tuple[np.ndarray, list[list[int]]]:
        """(number of each image's group, the groups of each stratum, shuffled), rarest first."""
        group_of = numbered(self.groups)
        strata = np.zeros(len(self), np.int64) if strata is None else np.asarray(strata)
        pairs = np.unique(np.stack([strata, group_of], 1), axis=0)
        values, frequency = np.unique(pairs[:, 0], return_counts=True)
        free, members = np.ones(len(pairs), bool), []
        for value in values[np.argsort(frequency, kind='stable')]:
            groups = pairs[pairs[:, 0] == value, 1]
            groups = groups[free[groups]]
            free[groups] = False
            if len(groups):
                order = permutation(len(groups), f'{seed}/{len(members)}')
                members.append(groups[order].tolist())
        return group_of, members

    def without(self, held_out: 'Corpus') -> tuple['Corpus', LeftOut]:
        """The images that share no patient (where known), study, image id or pixels with
        `held_out`, and how many do."""
        known = np.zeros(len(self), bool)
        for field in ('patient', 'study', 'image_id'):
            ids = np.unique(held_out.column(field))
            known |= np.isin(self.column(field), ids[ids != ''])
        copies = np.isin(self.column('content'), held_out.column('content')) & ~known
        kept = self.take(~known & ~copies)
        return kept, LeftOut(len(self) - len(kept), int(known.sum()), int(copies.sum()))

    def statistics(self, region: str) -> dict[str, float]:
        """{'mean', 'std'} of the pixels of a region (statistics.REGIONS) on [0, 1], exact."""
        if region not in REGIONS:
            raise UserError(f'There is no region {region!r}, only {", ".join(REGIONS)}.')
        if not len(self):
            raise UserError(f'{self.title} has no images to take the mean and deviation of.')
        if region != 'full' and not self.has_lung_masks:
            lacking = len(self) - int(self.column('has_mask').sum())
            raise UserError(
                f'The region {region} needs a lung mask for every image, and {lacking} of the '
                f'{len(self)} images of {self.title} have none.'
            )
        lungs = None if region == 'full' else self.column('lung_sums')
        return statistics(self.column('sums'), lungs, self.bits)[region]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images and lung masks in their order, without labels, ids and names: all
        that a pretext stage depends on; the same on every machine."""
        digest = hashlib.sha256(f'{self.bits} {self.size}'.encode())
        for field in ('content', 'mask_content'):
            digest.update('\n'.join(['', field, *self.column(field).tolist()]).encode())
        return digest.hexdigest()

    def describe(self) -> dict:
        """What a report says of it."""
        return {
            'sets': [
                {'name': prepared.name, 'fingerprint': prepared.fingerprint, 'images': len(rows)}
                for prepared, rows in self.parts
            ],
            'images': len(self),
            'patients': len(np.unique(self.groups)),
            'has_patient_ids': bool((self.column('patient') != '').all()),
        }


def union(corpora: Iterable[Corpus]) -> Corpus:
    """All images of several corpora, each once: set after set, a set's images in stored order."""
    rows, sets = {}, {}
    for corpus in corpora:
        for prepared, own in corpus.parts:
            key = prepared.directory, prepared.fingerprint
            sets.setdefault(key, prepared)
            rows.setdefault(key, []).append(own)
    return Corpus(tuple((sets[key], np.unique(np.concatenate(own))) for key, own in rows.items()))


def numbered(values: np.ndarray) -> np.ndarray:
    """A number for each distinct value, in the order in which they first appear; int64 [N]."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.ravel()]


def permutation(n: int, key: str) -> np.ndarray:
    """The numbers 0 .. n-1 in an order that `key` determines, everywhere and for ever, int32 [n].

    They are sorted by SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195) of a hash of
    the key: NumPy does not promise that its own permutations stay the same.
    """
    state = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], 'big'))
    z = state + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(z ^ (z >> np.uint64(31)), kind='stable').astype(np.int32)
