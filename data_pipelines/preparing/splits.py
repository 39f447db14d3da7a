"""Split a data set by patient: stratified, deterministic, independent of the order of files."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.datasets.base import read_table
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import SPLITS

FRACTIONS = (0.7, 0.1, 0.2)
ATTEMPTS = 100


def split_counts(n: int, fractions: Sequence[float] = FRACTIONS) -> list[int]:
    """Share out `n` patients by largest remainder; with n >= 3 no split is left empty."""
    ideal = [n * fraction for fraction in fractions]
    counts = [int(share + 1e-9) for share in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda k: (counts[k] - ideal[k], k))
    for k in by_remainder[: n - sum(counts)]:
        counts[k] += 1
    if n >= len(counts):
        for k in range(len(counts)):
            if counts[k] == 0:
                counts[counts.index(max(counts))] -= 1
                counts[k] = 1
    return counts


def assign_splits(
    patients: Sequence[str],
    labels: Sequence[int],
    seed: int,
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, str]:
    """Give each patient one of SPLITS, or of the first of them if there are fewer `fractions`.

    `patients[i]` and `labels[i]` belong together; an image with several labels comes once for each.
    The order within a stratum is a hash of (seed, patient), so neither the order of the files nor
    other patients of other classes matter.
    A patient with several labels counts for the one that fewest patients have. Every class with
    at least three patients appears in every split; where such patients make that fail, the hash
    order is drawn again.
    """
    classes = defaultdict(set)
    for patient, label in zip(patients, labels, strict=True):
        classes[patient].add(label)
    frequency = Counter(label for own in classes.values() for label in own)
    strata = defaultdict(list)
    for patient, own in classes.items():
        strata[min(own, key=lambda label: (frequency[label], label))].append(patient)

    best, fewest = {}, None
    for attempt in range(ATTEMPTS):
        assignment = _draw(strata, seed, attempt, fractions)
        missing = _missing(classes, frequency, assignment, SPLITS[: len(fractions)])
        if fewest is None or missing < fewest:
            best, fewest = assignment, missing
        if not missing:
            break
    return best


def _draw(
    strata: Mapping[int, list[str]], seed: int, attempt: int, fractions: Sequence[float]
) -> dict[str, str]:
    def place(patient: str) -> str:
        return hashlib.sha256(f'{seed}/{attempt}/{patient}'.encode()).hexdigest()

    assignment = {}
    for members in strata.values():
        names = [
            name
            for name, count in zip(SPLITS, split_counts(len(members), fractions), strict=False)
            for _ in range(count)
        ]
        assignment |= zip(sorted(members, key=place), names, strict=True)
    return assignment


def _missing(
    classes: Mapping[str, set[int]],
    frequency: Mapping[int, int],
    assignment: Mapping[str, str],
    splits: Sequence[str],
) -> int:
    """How many pairs (class of as many patients as splits, split) have no patient."""
    present = {(label, assignment[p]) for p, own in classes.items() for label in own}
    return sum(
        (label, name) not in present
        for label, patients in frequency.items()
        if patients >= len(splits)
        for name in splits
    )


def read_splits(path: Path) -> dict[str, str]:
    """Read `patient,split` of a splits.csv that comes with the raw data: {raw patient: split}."""
    hint = 'Add them, or delete the file to have the splits drawn.'
    result = {}
    for number, row in enumerate(read_table(path, ('patient', 'split'), hint), start=1):
        patient, split = row['patient'], row['split']
        if split not in SPLITS:
            raise UserError(f'{path}, row {number}: the split {split!r} is not one of {SPLITS}.')
        if result.setdefault(patient, split) != split:
            raise UserError(
                f'{path}, row {number}: a patient is in two splits, '
                f'{result[patient]} and {split}; keep one.'
            )
    return result
