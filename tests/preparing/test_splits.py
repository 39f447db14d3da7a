"""Splits by patient: disjoint, in proportion, stratified, the same for every order of files."""

import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.preparing.splits import (
    FRACTIONS,
    SPLITS,
    assign_splits,
    read_splits,
    split_counts,
)


def cohort(n_patients=500, n_classes=4, seed=0, mixed=0.0):
    """Images of a random cohort as (patients, labels); `mixed` patients have several labels."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, n_classes + 1)
    patients, labels = [], []
    for k in range(n_patients):
        label = int(rng.choice(n_classes, p=weights / weights.sum()))
        for _ in range(rng.integers(1, 4)):
            patients.append(f'p{k}')
            labels.append(int(rng.integers(n_classes)) if rng.random() < mixed else label)
    return patients, labels


def test_split_counts_are_largest_remainders():
    assert split_counts(10) == [7, 1, 2]
    assert split_counts(1000) == [700, 100, 200]
    assert split_counts(14) == [10, 1, 3]  # 9.8, 1.4, 2.8
    assert split_counts(3) == [1, 1, 1]
    for n in range(4, 200):
        counts = split_counts(n)
        assert sum(counts) == n and min(counts) >= 1
        assert np.abs(np.array(counts) - n * np.array(FRACTIONS)).max() < 1


def test_every_class_is_within_one_patient_of_its_ideal_share():
    patients, labels = cohort()
    assignment = assign_splits(patients, labels, seed=0)
    assert set(assignment) == set(patients)
    label_of = dict(zip(patients, labels, strict=True))
    per_class = Counter((label_of[p], split) for p, split in assignment.items())
    for label, n in Counter(label_of.values()).items():
        for split, fraction in zip(SPLITS, FRACTIONS, strict=True):
            assert abs(per_class[label, split] - n * fraction) < 1


def test_the_order_of_images_and_other_classes_do_not_matter():
    patients, labels = cohort(mixed=0.2)
    pairs = list(zip(patients, labels, strict=True))
    expected = assign_splits(patients, labels, seed=5)
    for shuffle in range(3):
        random.Random(shuffle).shuffle(pairs)
        assert assign_splits(*zip(*pairs, strict=True), seed=5) == expected
    patients, labels = cohort()
    before = assign_splits(patients, labels, seed=5)
    kept = [(p, k) for p, k in zip(patients, labels, strict=True) if k != 3]
    after = assign_splits(*zip(*kept, strict=True), seed=5)
    assert all(before[p] == split for p, split in after.items())


def test_seeds_differ():
    patients, labels = cohort()
    first, second = (assign_splits(patients, labels, seed) for seed in (0, 1))
    same = np.mean([first[p] == second[p] for p in first])
    assert same == pytest.approx(0.7**2 + 0.1**2 + 0.2**2, abs=0.1)  # as if independent


@pytest.mark.parametrize('seed', range(20))
def test_every_class_of_three_patients_is_in_every_split(seed):
    # Few patients, most with several labels: strata alone would often miss a class.
    patients, labels = cohort(n_patients=12, seed=seed, mixed=0.7)
    assignment = assign_splits(patients, labels, seed)
    having, seen = defaultdict(set), defaultdict(set)
    for patient, label in zip(patients, labels, strict=True):
        having[label].add(patient)
        seen[label].add(assignment[patient])
    for label, own in having.items():
        if len(own) >= 3:
            assert seen[label] == set(SPLITS)


def test_given_splits_are_read_and_checked(tmp_path):
    table = tmp_path / 'splits.csv'
    table.write_text('patient,split\na,train\nb,test\na,train\n')
    assert read_splits(table) == {'a': 'train', 'b': 'test'}
    table.write_text('split;patient\ntrain;a\ntest\n', encoding='utf-16')
    assert read_splits(table) == {'a': 'train', '': 'test'}
    for text, complaint in (
        ('patient,fold\na,1\n', 'columns'),
        ('patient,split\na,val\n', "'val'"),
        ('patient,split\na,train\na,test\n', 'two splits'),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=complaint):
            read_splits(table)
