"""Paired tests and Holm's correction against plain loops and known results."""

import itertools
import math

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import PATIENTS_AND_SEEDS, Draws
from cxr_jax.evaluation.cohort import aligned
from cxr_jax.evaluation.difference import difference, holm, paired_difference
from cxr_jax.evaluation.measures.base import resample
from data_pipelines.errors import UserError
from tests.evaluation.loops import balanced, loop_samples
from tests.evaluation.made_up import findings_table, models, right_table, shuffled

HEADLINE = measures.headline(True)


def compare(first, second, resamples=10_000, seed=0):
    """Paired difference of the headline measure of exclusive classes."""
    names = 'abcd'[: first[0]['scores'].shape[1]]
    return paired_difference(HEADLINE, first, second, names, True, Draws(resamples, seed))


def test_difference_equals_a_loop_over_resamples_with_two_seeds_and_one():
    a, b, c = models([0.7, 0.6, 0.55], n=40)
    found = compare([a, b], [c], resamples=80, seed=3)
    everything = np.arange(40)
    value = (balanced(a, everything) + balanced(b, everything)) / 2 - balanced(c, everything)
    samples = loop_samples([a, b], [c], 80, 3)
    figure = found['difference']
    assert figure['value'] == pytest.approx(value, rel=1e-12)
    low, high = np.percentile(samples, [2.5, 97.5])
    assert [figure['low'], figure['high']] == pytest.approx([low, high], rel=1e-10)
    extreme = sum(abs(d - value) >= abs(value) - 1e-9 for d in samples)
    assert 2 < extreme < 79 and found['p'] == pytest.approx((1 + extreme) / 81, rel=1e-12)
    assert (found['images'], found['patients']) == (40, 20)


def test_equal_models_have_a_p_value_of_one():
    a, b = models([0.7, 0.6])
    for first, second in (([a], [a]), ([a, b], [a, b]), ([a, b], [b, a])):
        found = compare(first, second, 500)
        assert found['p'] == 1
        assert [found['difference'][k] for k in ('value', 'low', 'high')] == pytest.approx([0] * 3)


def test_a_clearly_better_model_has_the_least_possible_p_value_which_is_not_zero():
    better, worse = models([0.95, 0.4])
    found = compare([better], [worse], 999)
    assert found['p'] == 1 / 1000 and found['difference']['low'] > 0.3
    swapped = compare([worse], [better], 999)
    assert swapped['p'] == found['p']
    assert swapped['difference']['value'] == -found['difference']['value']
    assert swapped['difference']['low'] == pytest.approx(-found['difference']['high'])


def test_p_value_is_near_that_of_the_normal_approximation():
    labels, rng = np.zeros(600, int), np.random.default_rng(1)
    both, only_a, only_b = 400, 62, 42  # images right for both models, for one of them
    right_a = np.arange(600) < both + only_a
    right_b = (np.arange(600) < both) | (np.arange(600) >= 600 - only_b)
    order = rng.permutation(600)
    a, b = (right_table(x[order], labels, np.arange(600), 2) for x in (right_a, right_b))
    found = compare([a], [b])
    d = (only_a - only_b) / 600
    sd = math.sqrt((only_a + only_b) / 600 - d * d) / math.sqrt(600)
    normal = math.erfc(d / sd / math.sqrt(2))
    assert found['difference']['value'] == pytest.approx(d)
    assert found['p'] == pytest.approx(normal, abs=0.01) and 0.03 < normal < 0.07
    half = 1.96 * sd
    assert found['difference']['high'] == pytest.approx(d + half, abs=0.1 * half)


def test_pairing_narrows_the_interval():
    """Errors in common cancel; independent ones add."""
    rng = np.random.default_rng(2)
    labels, patients = np.arange(300) % 2, np.arange(300)
    right = rng.random(300) < 0.7
    near = right ^ (rng.random(300) < 0.05)
    a, b, c = (right_table(x, labels, patients) for x in (right, near, rng.random(300) < 0.7))

    def width(x, y):
        figure = compare([x], [y], 1000)['difference']
        return figure['high'] - figure['low']

    # Share of images on which they disagree: about 0.05 against 0.42.
    assert width(a, c) / width(a, b) == pytest.approx(math.sqrt(0.42 / 0.05), rel=0.3)


def test_order_of_the_images_and_unlabelled_images_do_not_matter():
    a, b = models([0.7, 0.6])
    order = np.random.default_rng(0).permutation(120)
    before = compare([a], [b], 300)
    assert compare([shuffled(a, order)], [b], 300) == before
    extra = {name: np.concatenate([x, x[:5]]) for name, x in a.items()}
    extra['labels'][-5:] = -1
    assert compare([extra], [b], 300) == before


def test_the_test_is_right_under_the_null_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    rejected, covered = 0, 0
    for trial in range(200):
        labels, patients = np.arange(120) % 2, np.arange(120) // 2
        pair = [np.repeat(rng.random(60) < 0.6, 2) for _ in range(2)]
        a, b = (right_table(right, labels, patients) for right in pair)
        found = compare([a], [b], resamples=400, seed=trial)
        rejected += found['p'] < 0.05
        covered += found['difference']['low'] <= 0 <= found['difference']['high']
    assert 2 <= rejected <= 22 and 178 <= covered <= 198  # 10 and 190 with a deviation of 3


def test_class_of_a_single_patient_leaves_a_p_value_and_only_one_patient_none():
    a, b = models([0.7, 0.6], n=40)
    lonely = np.full(40, 'same')
    found = compare([a | {'patients': lonely}], [b | {'patients': lonely}], 50)
    assert found['p'] is None and found['difference']['low'] is None
    assert 'one patient' in found['difference']['reason']


@pytest.mark.parametrize(
    ('raw', 'adjusted'),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Wikipedia's example
        # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), 'holm')
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.9, 0.8, 0.0001], [1, 1, 0.0003]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_of_known_examples(raw, adjusted):
    assert holm(raw) == pytest.approx(adjusted, rel=1e-12)
    for order in itertools.islice(itertools.permutations(range(len(raw))), 24):
        expected = [adjusted[i] for i in order]
        assert holm([raw[i] for i in order]) == pytest.approx(expected, rel=1e-12)


def test_a_missing_p_value_counts_as_a_comparison_and_stays_missing():
    first, missing, last = holm([0.01, None, 0.03])
    assert missing is None and [first, last] == pytest.approx([0.03, 0.06])


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.random(8) ** 3
        rejected, order = set(), np.argsort(p)
        for i, index in enumerate(order):
            if p[index] > 0.05 / (8 - i):
                break
            rejected.add(index)
        assert {i for i, x in enumerate(holm(p.tolist())) if x <= 0.05} == rejected


def with_offsets(base, offsets):
    """Tables whose mean attention is that of `base` plus the offset of a seed."""
    return [base | {'ail': base['ail'] + offset} for offset in offsets]


def one_image_a_patient(n, seed):
    table = right_table(np.ones(n, bool), np.zeros(n, int), np.arange(n), 1)
    ail = np.random.default_rng(seed).random(n)
    return table | {'ail': ail, 'lung_area': np.full(n, 0.3)}


def test_any_measure_and_any_name_can_be_compared():
    first, second = findings_table(0), findings_table(1)
    tables, cohort = aligned([first, second], 'abc', False)
    everything = measures.of(False)
    found = resample(everything, tables, cohort, Draws(200, 5))
    results = [measures.evaluate(table, 'abc', False, 5, 200) for table in (first, second)]
    for measure in everything:
        for k in range(3) if measure.level == 'name' else [None]:
            values = [
                result['figures'][measure.name]['figure']['value'] if k is None
                else result['per_name'][k]['figures'][measure.name]['value']
                for result in results
            ]  # fmt: skip
            row = difference(found, measure, [0], [1], k)
            assert row['difference']['value'] == pytest.approx(values[0] - values[1], abs=1e-15)
            assert 0 < row['p'] <= 1
    alone = paired_difference(
        measures.headline(False), [first], [second], 'abc', False, Draws(200, 5)
    )
    assert alone == difference(found, measures.headline(False), [0], [1])


def test_over_patients_and_seeds_the_variances_of_both_add():
    """Means of u_i + v_s: the bootstrap's variance is var(u) / P + var(v) / S of either model."""
    rng = np.random.default_rng(0)
    a, b = one_image_a_patient(100, 1), one_image_a_patient(100, 2)
    offsets, others = rng.normal(0, 0.1, (2, 12))
    first, second = with_offsets(a, offsets), with_offsets(b, others[:10])
    ail = measures.named('ail')

    def found(over, second):
        return paired_difference(ail, first, second, 'a', True, Draws(2500, 0, over))['difference']

    def width(of_patients, of_seeds):
        return 2 * 1.96 * math.sqrt(of_patients + of_seeds)

    patients = (a['ail'] - b['ail']).var() / 100
    seeds = offsets.var() / 12 + others[:10].var() / 10
    for over, expected in (
        ('patients', width(patients, 0)), (PATIENTS_AND_SEEDS, width(patients, seeds))
    ):  # fmt: skip
        figure = found(over, second)
        assert figure['high'] - figure['low'] == pytest.approx(expected, rel=0.08)
        value = a['ail'].mean() - b['ail'].mean() + offsets.mean() - others[:10].mean()
        assert figure['value'] == pytest.approx(value, rel=1e-10)
    # As many seeds are drawn in pairs: what a seed does to both models cancels.
    alike = found(PATIENTS_AND_SEEDS, with_offsets(b, offsets))
    assert alike['high'] - alike['low'] == pytest.approx(width(patients, 0), rel=0.08)
    single = found(PATIENTS_AND_SEEDS, with_offsets(b, others[:1]))
    assert 'one seed only' in single['reason']


def test_no_seed_in_common_has_no_difference():
    tables, cohort = aligned(models([0.7, 0.6]), 'abc', True)
    row = difference(resample([HEADLINE], tables, cohort, Draws(20)), HEADLINE, [], [])
    assert row['p'] is None and row['difference']['reason'] == 'no seed in common'


def test_other_images_are_refused():
    a, b = models([0.7, 0.6])
    with pytest.raises(UserError, match='table 0 and table 1 .* differ in labels'):
        compare([a], [b | {'labels': (b['labels'] + 1) % 3}])
