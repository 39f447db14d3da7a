"""Corpora against brute force: rows, unions, fractions, folds, and who is left out."""

import hashlib
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import LeftOut, numbered, permutation, union
from data_pipelines.prepared.statistics import pixel_sums, statistics
from tests.prepared.made_up import cohort, made_up_set


def stored(corpus):
    """[(name of the set, stored row)]."""
    return [(prepared.name, int(row)) for prepared, rows in corpus.parts for row in rows]


def test_rows_columns_and_taking_count_through_the_parts():
    one = made_up_set('one', split=['train', 'test', 'train', 'validation', 'train'])
    two = made_up_set('two', split=['test', 'train', 'train'])
    both = union([one.corpus('train'), two.corpus('train')])
    rows = [('one', 0), ('one', 2), ('one', 4), ('two', 1), ('two', 2)]
    assert stored(both) == rows and len(both) == 5 and both.title == 'one + two'
    assert both.column('set').tolist() == [name for name, _ in rows]
    sets = {'one': one, 'two': two}
    for field in ('image_id', 'content', 'age', 'sums'):
        expected = [getattr(sets[name].index, field)[row] for name, row in rows]
        np.testing.assert_array_equal(both.column(field), expected)
    for numbers in ([], [0], [1, 3], [0, 1, 2, 3, 4], [3, 4]):
        expected = [rows[k] for k in numbers]
        assert stored(both.take(np.array(numbers, int))) == expected
        assert stored(both.take(np.isin(np.arange(5), numbers))) == expected
    assert len(one.corpus()) == 5 and not len(two.corpus('validation'))
    for wrong in (np.array([1, 0]), np.array([2, 2]), np.array([5]), np.ones(4, bool)):
        with pytest.raises(ValueError):
            both.take(wrong)
    with pytest.raises(UserError, match="'val'"):
        one.corpus('val')


def test_a_union_has_each_image_once():
    one, two = made_up_set('one', 6), made_up_set('two', 4)
    first, second = one.corpus().take(np.array([1, 3, 5])), one.corpus().take(np.array([0, 3]))
    joined = union([first, two.corpus(), second])
    expected = [('one', k) for k in (0, 1, 3, 5)] + [('two', k) for k in range(4)]
    assert stored(joined) == expected
    for other in (made_up_set('big', 3, size=32), made_up_set('deep', 3, bits=16)):
        with pytest.raises(UserError, match='cannot be used together'):
            union([one.corpus(), other.corpus()])


def test_labels_of_sets_with_other_names_are_not_put_together():
    one, two = made_up_set('one', 2, names=('a', 'b')), made_up_set('two', 2, names=('b', 'a'))
    assert one.corpus().column('labels').shape == (2, 2)
    with pytest.raises(ValueError, match='Target'):
        union([one.corpus(), two.corpus()]).column('labels')


def test_groups_are_patients_else_studies():
    prepared = made_up_set(patient=['p', '', 'q', ''], study=['s', 's', 's', 't'])
    assert prepared.corpus().groups.tolist() == ['p', 's', 'q', 't']
    assert numbered(np.array(['b', 'a', 'b', 'c', 'a'])).tolist() == [0, 1, 0, 2, 1]
    told = prepared.corpus().describe()
    assert told == {
        'sets': [{'name': 'set', 'fingerprint': 'fingerprint of set', 'images': 4}],
        'images': 4, 'patients': 4, 'has_patient_ids': False,
    }  # fmt: skip


def rarest(patients, strata):
    """{patient: the stratum that fewest patients have, of its own}, by brute force."""
    own = defaultdict(set)
    for patient, stratum in zip(patients, strata, strict=True):
        own[patient].add(int(stratum))
    frequency = Counter(stratum for of in own.values() for stratum in of)
    return {p: min(of, key=lambda s: (frequency[s], s)) for p, of in own.items()}


@pytest.mark.parametrize('seed', [0, 7])
def test_fractions_are_nested_by_patient_and_stratified(seed):
    patients, strata = cohort(120, seed)
    corpus = made_up_set(patient=patients).corpus()
    stratum_of, before = rarest(patients, strata), set()
    for share in (0.01, 0.1, 0.25, 0.5, 0.9, 1):
        part = corpus.fraction(share, seed, strata)
        chosen, rows = set(part.column('patient')), {row for _, row in stored(part)}
        assert before <= rows, 'nested'
        before = rows
        assert rows == set(np.flatnonzero(np.isin(patients, list(chosen)))), 'whole patients'
        for stratum in set(stratum_of.values()):
            own = {p for p, s in stratum_of.items() if s == stratum}
            taken, ideal = len(own & chosen), share * len(own)
            assert taken == 1 if ideal < 0.5 else abs(taken - ideal) <= 0.5
    assert corpus.fraction(1, seed) is corpus
    first, second = (set(stored(corpus.fraction(0.5, s))) for s in (seed, seed + 1))
    assert first != second and 0.3 < len(first & second) / len(first) < 0.7  # as if independent
    for share in (0, 1.5, -0.1, float('nan')):
        with pytest.raises(UserError, match='above 0'):
            corpus.fraction(share, seed)


def test_every_patient_is_as_likely_as_another():
    corpus = made_up_set(n=20).corpus()
    taken = np.zeros(20)
    for seed in range(400):
        taken[[row for _, row in stored(corpus.fraction(0.3, seed))]] += 1
    # 400 draws of 6 in 20: 120 each, deviation sqrt(400 * 0.3 * 0.7) = 9.2.
    assert taken.sum() == 400 * 6 and np.abs(taken - 120).max() < 4 * 9.2


@pytest.mark.parametrize(('n', 'seed'), [(2, 0), (5, 1), (10, 2)])
def test_folds_are_by_patient_stratified_and_even(n, seed):
    patients, strata = cohort(150, seed)
    corpus = made_up_set(patient=patients).corpus()
    fold = corpus.folds(n, seed, strata)
    assert set(fold) == set(range(n))
    fold_of = defaultdict(set)
    for patient, k in zip(patients, fold, strict=True):
        fold_of[patient].add(int(k))
    assert all(len(folds) == 1 for folds in fold_of.values())
    images = np.bincount(fold, minlength=n)
    assert images.max() - images.min() <= max(Counter(patients).values())
    stratum_of = rarest(patients, strata)
    for stratum in set(stratum_of.values()):
        counts = Counter(min(fold_of[p]) for p, s in stratum_of.items() if s == stratum)
        assert max(counts.values()) - min(counts[k] for k in range(n)) <= 1
    assert (corpus.folds(n, seed + 1, strata) != fold).any()


def test_folds_of_single_images_are_even_in_all_strata():
    strata = np.repeat([0, 1, 2, -1], [7, 5, 11, 3])
    corpus = made_up_set(n=26).corpus()
    fold = corpus.folds(4, 0, strata)
    assert sorted(np.bincount(fold)) == [6, 6, 7, 7]
    for stratum in (0, 1, 2, -1):
        counts = np.bincount(fold[strata == stratum], minlength=4)
        assert counts.max() - counts.min() <= 1
    for wrong in (1, 27):
        with pytest.raises(UserError, match='26 patients'):
            corpus.folds(wrong, 0)


def test_choices_are_the_same_on_another_machine_and_differ_with_the_order():
    patients, strata = cohort(60)
    here, there = (made_up_set(patient=patients, salt=salt).corpus() for salt in ('a', 'zz'))
    assert set(here.groups).isdisjoint(there.groups)
    for share in (0.2, 0.6):
        mine, other = (stored(c.fraction(share, 3, strata)) for c in (here, there))
        assert mine == other
    np.testing.assert_array_equal(here.folds(5, 3, strata), there.folds(5, 3, strata))
    # Golden: a change of the numbers makes yesterday's folds and fractions unfindable.
    small = made_up_set(n=12).corpus()
    assert [row for _, row in stored(small.fraction(0.5, 3))] == GOLDEN_HALF
    assert small.folds(3, 3).tolist() == GOLDEN_FOLDS


GOLDEN_HALF = [0, 5, 6, 7, 9, 10]
GOLDEN_FOLDS = [1, 1, 2, 2, 0, 2, 1, 0, 1, 2, 0, 0]


def split_mix(state):
    """The generator as its authors print it, on Python's integers; endless."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


@pytest.mark.parametrize('n', [0, 1, 2, 8, 1000])
def test_permutations_sort_by_split_mix(n):
    seed = int.from_bytes(hashlib.sha256(b'some key').digest()[:8], 'big')
    values = list(islice(split_mix(seed), n))
    expected = sorted(range(n), key=values.__getitem__)
    assert permutation(n, 'some key').tolist() == expected


def test_all_permutations_are_as_likely():
    counts = Counter(tuple(permutation(3, str(k)).tolist()) for k in range(6000))
    # Six of them: 1000 each, deviation sqrt(6000 * 1/6 * 5/6) = 28.9.
    assert len(counts) == 6 and all(abs(n - 1000) < 4 * 28.9 for n in counts.values())


def test_planted_patients_and_copies_are_left_out_across_sets():
    rng = np.random.default_rng(0)
    n = 60
    mine = {
        'patient': [f'p{k}' if k % 5 else '' for k in range(n)],
        'study': [f's{k}' for k in range(n)],
        'image_id': [f'i{k}' for k in range(n)],
        'content': [f'c{k}' for k in range(n)],
    }
    theirs = {field: [f'other {value}' for value in values] for field, values in mine.items()}
    theirs['patient'] = ['' if k % 3 == 0 else f'other p{k}' for k in range(n)]
    planted = defaultdict(set)
    for field in mine:
        for k in rng.choice(n, 6, replace=False):
            theirs[field][k] = mine[field][(k + 7) % n]
            planted[field].add(int(k))
    held_out = made_up_set('mine', split=['test'] * n, **mine).corpus('test')
    corpus = union([made_up_set('theirs', **theirs).corpus(), made_up_set('third', 4).corpus()])

    wanted = set(zip(*mine.values(), strict=True))
    by_id, by_content = set(), set()
    for k in range(n):
        for patient, study, image, content in wanted:
            same = theirs['patient'][k] == patient != ''
            if same or theirs['study'][k] == study or theirs['image_id'][k] == image:
                by_id.add(k)
            if theirs['content'][k] == content:
                by_content.add(k)
    assert by_content == planted['content'] and by_content & by_id and by_content - by_id
    kept, left_out = corpus.without(held_out)
    gone = by_id | by_content
    assert left_out == LeftOut(len(gone), len(by_id), len(gone) - len(by_id))
    expected = [('theirs', k) for k in range(n) if k not in gone]
    assert stored(kept) == expected + [('third', k) for k in range(4)]
    again, none = kept.without(held_out)
    assert stored(again) == stored(kept) and none == LeftOut()


def test_unknown_patients_are_not_all_the_same_person():
    one, two = made_up_set('one', patient=['', '']), made_up_set('two', patient=['', ''])
    assert one.corpus().without(two.corpus())[1] == LeftOut()


def test_the_fingerprint_is_that_of_the_pixels_and_masks_alone():
    def fingerprint(**changes):
        columns = {'content': ['a', 'b'], 'patient': ['p', 'q'], 'mask_content': ['', 'm']}
        return made_up_set(**columns | changes).corpus().fingerprint

    assert fingerprint() == fingerprint(
        patient=['x', ''], salt='other', name='another', split=['test', 'train'],
        names=('a',), labels=np.ones((2, 1), np.int8),
    )  # fmt: skip
    others = [
        fingerprint(content=['b', 'a']), fingerprint(mask_content=['', 'n']),
        fingerprint(content=['a', 'b', 'c'], patient=['p'] * 3, mask_content=['', 'm', '']),
        fingerprint(size=32), fingerprint(bits=16),
    ]  # fmt: skip
    assert len({fingerprint(), *others}) == 6
    whole, two = (made_up_set(content=content).corpus() for content in (list('abc'), list('ac')))
    assert whole.take(np.array([0, 2])).fingerprint == two.fingerprint != whole.fingerprint


def test_statistics_are_exact_and_those_of_before():
    """Floats of the first edition, whose sums were Counters of Python's integers."""
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 256, 100), rng.random(100) < 0.3) for _ in range(5)]
    sums = np.array([pixel_sums(x) for x, _ in images])
    lung_sums = np.array([pixel_sums(x[mask]) for x, mask in images])
    expected = {
        'full': (0.5112156862745098, 0.28076520912111946),
        'lungs_black': (0.14941176470588236, 0.2822938391302915),
        'lungs_gray': (0.5154421960784313, 0.15314544628150467),
        'background': (0.36180392156862745, 0.3274978104355226),
    }
    prepared = made_up_set(sums=sums, lung_sums=lung_sums, has_mask=np.ones(5, bool))
    for region, (mean, std) in expected.items():
        assert prepared.corpus().statistics(region) == {'mean': mean, 'std': std}
    part = prepared.corpus().take(np.array([1, 4]))
    pixels = np.concatenate([images[1][0], images[4][0]]) / 255
    assert part.statistics('full')['mean'] == pytest.approx(pixels.mean(), rel=1e-12)
    # 16 bits: the squares of all images are beyond 64 bits.
    huge = np.array([[2**30, 65535 * 2**30, 65535**2 * 2**30]] * 5)
    assert statistics(huge, None, 16)['full'] == {'mean': 1.0, 'std': 0.0}
    assert Fraction(int(huge[:, 2].astype(object).sum())) > 2**63


def test_statistics_that_cannot_be_are_refused():
    some = made_up_set(has_mask=[True, False]).corpus()
    assert not some.has_lung_masks and some.statistics('full')
    with pytest.raises(UserError, match='1 of the 2 images'):
        some.statistics('lungs_black')
    with pytest.raises(UserError, match="'ribs'"):
        some.statistics('ribs')
    with pytest.raises(UserError, match='no images'):
        made_up_set(n=2).corpus('test').statistics('full')
