"""Which rows of a table count, what tables have in common, and tables of folds."""

import numpy as np
import pytest

from cxr_jax.evaluation.cohort import aligned, labelled, pooled
from data_pipelines.errors import UserError
from tests.evaluation.made_up import findings_table, made_up_table

CLASSES, FINDINGS = ('a', 'b', 'c', 'd'), ('mass', 'nodule', 'effusion')


def rows_of(table, rows):
    return {name: x[rows] for name, x in table.items()}


def test_rows_without_a_class_are_left_out():
    table = made_up_table()
    table['labels'][[0, 7]] = -1
    rows, cohort = labelled(table, CLASSES, True)
    kept = np.delete(np.arange(90), [0, 7])
    for name, x in rows.items():
        np.testing.assert_array_equal(x, table[name][kept])
    assert len(cohort) == 88 and cohort.names == CLASSES
    np.testing.assert_array_equal(cohort.positive.sum(0), np.bincount(table['labels'][kept]))
    np.testing.assert_array_equal(cohort.negative, ~cohort.positive)


def test_what_is_no_column_of_a_table_is_ignored():
    table = made_up_table()
    rows, _ = labelled(table | {'names': np.array(CLASSES)}, CLASSES, True)
    assert rows.keys() == table.keys()


def test_rows_with_any_known_finding_count_for_what_is_known():
    table = findings_table()
    table['labels'][:5], table['labels'][5] = -1, [1, 0, -1]
    _, cohort = labelled(table, FINDINGS, False)
    assert cohort.image_ids[0] == 'image0005'
    assert cohort.positive[0].tolist() == [True, False, False]
    assert cohort.negative[0].tolist() == [False, True, False]
    known = table['labels'] >= 0
    assert len(cohort) == known.any(1).sum()
    for k in range(3):
        ones = (table['labels'][:, k] == 1).sum()
        assert cohort.prevalence[k] == ones / known[:, k].sum()


def test_patients_are_counted_by_name():
    table = made_up_table(n=6, k=2)
    table |= {'labels': np.array([0, 0, 1, 0, 1, 1]), 'patients': np.array(list('zzyyxw'))}
    _, cohort = labelled(table, 'ab', True)
    assert cohort.n_patients == 4 and cohort.codes.tolist() == [3, 3, 2, 2, 1, 0]
    assert cohort.people(cohort.positive).tolist() == [2, 3]


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'labels': np.full(90, 4)}, 'labels'),
        ({'labels': np.full(90, -2)}, 'labels'),
        ({'labels': np.zeros((90, 4), int)}, 'labels'),
        ({'scores': np.zeros((90, 3))}, 'scores'),
        ({'patients': np.zeros(89, str)}, '89 patients'),
    ],
)
def test_tables_that_do_not_fit_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        labelled(made_up_table() | change, CLASSES, True)
    with pytest.raises(ValueError, match='labels'):
        labelled(findings_table() | {'labels': np.full((80, 3), 2)}, FINDINGS, False)


def test_aligned_tables_hold_the_same_image_in_the_same_row():
    first, second = made_up_table(0), made_up_table(1)
    second = rows_of(second, np.random.default_rng(0).permutation(90))
    (one, two), cohort = aligned([first, second], CLASSES, True)
    np.testing.assert_array_equal(one['image_ids'], two['image_ids'])
    np.testing.assert_array_equal(cohort.labels, two['labels'])
    np.testing.assert_array_equal(two['scores'], made_up_table(1)['scores'])


def test_other_images_are_refused_with_the_titles():
    table = made_up_table()
    other = table | {'image_ids': np.char.add(table['image_ids'], 'x')}
    titles = ['scratch (full, seed 0)', 'rot (full, seed 0)']
    with pytest.raises(UserError, match=r'scratch \(full, seed 0\) and rot .* differ in image ids'):
        aligned([table, other], CLASSES, True, titles)
    other = table | {'labels': (table['labels'] + 1) % 4}
    with pytest.raises(UserError, match='table 0 and table 1 .* differ in labels'):
        aligned([table, other], CLASSES, True)
    with pytest.raises(UserError, match=r'differ in image ids \(90 and 89 labelled'):
        aligned([table, rows_of(table, slice(89))], CLASSES, True)
    findings = findings_table()
    other = findings | {'labels': np.where(findings['labels'] < 0, 0, findings['labels'])}
    with pytest.raises(UserError, match='differ in'):
        aligned([findings, other], FINDINGS, False)


def test_folds_make_one_table_of_every_image_once():
    table = findings_table()
    fold = np.arange(80) // 2 % 3
    parts = [rows_of(table, fold == k) for k in range(3)]
    whole = pooled(parts)
    assert len(whole['labels']) == 80
    (one, two), _ = aligned([table, whole], FINDINGS, False)
    for name in table:
        np.testing.assert_array_equal(one[name], two[name])
    with pytest.raises(UserError, match='27 images are tested in more than one fold, such as'):
        pooled([*parts, rows_of(table, np.flatnonzero(fold == 0)[:27])])
    with pytest.raises(ValueError, match='columns'):
        pooled([parts[0], {name: x for name, x in parts[1].items() if name != 'ail'}])
