"""AUC, average precision and sensitivity against counting pairs, closed forms, invariances."""

import json
import math

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.cohort import labelled
from cxr_jax.evaluation.measures.ranking import Ranking, rank_auc, ranking_statistic
from tests.evaluation.made_up import findings_table, made_up_table

NAMES = ('mass', 'nodule', 'effusion')
FIGURES = ('auc', 'average_precision', 'sensitivity_at_90')


def counted(scores, positive, negative):
    """The three figures, image against image."""
    inside, outside = scores[positive], scores[negative]
    if not (len(inside) and len(outside)):
        return [math.nan] * 3
    wins = (inside[:, None] > outside) + (inside[:, None] == outside) / 2
    precisions, sensitivity = [], 0
    for score in inside:
        true, false = (inside >= score).sum(), (outside >= score).sum()
        precisions.append(true / (true + false))
        # Scores from this one on are called positive.
        if (outside < score).sum() * 10 >= 9 * len(outside):
            sensitivity = max(sensitivity, true / len(inside))
    return [wins.mean(), np.mean(precisions), sensitivity]


def figures_of(scores, positive, negative=None):
    ranking = Ranking.of(scores, positive, ~positive if negative is None else negative)
    weights = (np.ones((1, len(rows))) for rows in (ranking.positives, ranking.negatives))
    return [x[0] for x in ranking.figures(*weights)]


@pytest.mark.parametrize('seed', range(6))
def test_figures_equal_counting_with_ties_and_missing_labels(seed):
    table = findings_table(seed, n=60 + seed, known=(1, 0.8, 0.4)[seed % 3], of=seed)
    result = measures.evaluate(table, NAMES, False, resamples=2)
    expected = np.array([
        counted(table['scores'][:, k], table['labels'][:, k] == 1, table['labels'][:, k] == 0)
        for k in range(3)
    ])  # fmt: skip
    found = [[row['figures'][name]['value'] for name in FIGURES] for row in result['per_name']]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    means = [result['figures'][name]['figure']['value']
             for name in ('macro_auc', 'macro_average_precision')]  # fmt: skip
    np.testing.assert_allclose(means, expected[:, :2].mean(0), rtol=1e-12)
    assert result['headline'] == 'macro_auc'


@pytest.mark.parametrize('exclusive', [True, False])
def test_weights_are_repeated_rows(exclusive):
    table = made_up_table(k=3) if exclusive else findings_table(n=90)
    rows, cohort = labelled(table, NAMES, exclusive)
    counts = np.random.default_rng(0).integers(0, 4, (5, cohort.n_patients)).astype(float)
    weighted = ranking_statistic(cohort, rows)(counts)
    for b in range(5):
        images = np.repeat(np.arange(len(cohort)), counts[b, cohort.codes].astype(int))
        again = {name: x[images] for name, x in rows.items()}
        repeated, other = labelled(again, NAMES, exclusive)
        single = ranking_statistic(other, repeated)(np.ones((1, other.n_patients)))
        for name, x in single.items():
            np.testing.assert_allclose(weighted[name][b], x[0], rtol=1e-12)


def test_a_name_that_is_not_drawn_is_undefined():
    rows, cohort = labelled(findings_table(), NAMES, False)
    counts = np.ones((1, cohort.n_patients))
    counts[0, cohort.codes[cohort.positive[:, 0]]] = 0
    found = ranking_statistic(cohort, rows)(counts)
    for name in FIGURES:
        assert np.isnan(found[name][0]).tolist() == [True, False, False]
    assert np.isnan(found['macro_auc'][0])


def test_auc_of_closed_form_cases():
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    positive = np.array([False, False, True, True])
    assert rank_auc(scores, positive) == 1
    assert rank_auc(-scores, positive) == 0
    assert rank_auc(np.zeros(4), positive) == 0.5
    assert np.isnan(rank_auc(scores, np.ones(4, bool)))
    # Two normals one standard deviation apart: Phi(1 / sqrt 2).
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=40_000), np.arange(40_000) % 2 == 0
    expected = 0.5 * (1 + math.erf(0.5))
    assert rank_auc(scores + positive, positive) == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize(
    ('positive', 'expected'),
    [
        ([0, 0, 1, 1], 1),  # in ascending order of the scores
        ([1, 1, 0, 0], (1 / 3 + 2 / 4) / 2),
        ([1, 0, 1, 0], (1 / 2 + 2 / 4) / 2),
        ([0, 1, 0, 1], (1 / 1 + 2 / 3) / 2),
    ],
)
def test_average_precision_of_closed_form_cases(positive, expected):
    found = figures_of(np.array([0.1, 0.2, 0.3, 0.4]), np.array(positive, bool))
    assert found[1] == pytest.approx(expected, rel=1e-12)


def test_average_precision_of_tied_scores():
    # One threshold for the tie of a positive and two negatives: 1/2 * 1/1 + 1/2 * 2/4.
    positive = np.array([True, True, False, False, False])
    assert figures_of(np.array([0.9, 0.5, 0.5, 0.5, 0.1]), positive)[1] == pytest.approx(0.75)
    # Constant scores: the prevalence, and no order.
    assert figures_of(np.full(5, 0.3), positive)[:2] == pytest.approx([0.4, 0.5][::-1])


def test_sensitivity_at_a_specificity_of_exactly_ninety_percent():
    scores = np.concatenate([np.arange(10), [8.5, 9, 7]]).astype(float)
    positive = np.arange(13) >= 10
    # Nine of ten negatives lie below 8.5 and 9, seven below 7.
    assert figures_of(scores, positive)[2] == pytest.approx(2 / 3)


def test_only_the_order_of_the_scores_counts_and_turning_it_round_mirrors_auc():
    rng = np.random.default_rng(3)
    scores, positive = rng.random(200).round(1), rng.random(200) < 0.3
    np.testing.assert_array_equal(
        figures_of(scores, positive), figures_of(np.exp(5 * scores), positive)
    )
    assert figures_of(-scores, positive)[0] == pytest.approx(1 - figures_of(scores, positive)[0])


def test_scores_without_a_label_do_not_count():
    table = findings_table(known=0.5)
    changed = table | {'scores': np.where(table['labels'] < 0, 0.99, table['scores'])}
    found = [measures.evaluate(each, NAMES, False, resamples=50) for each in (table, changed)]
    assert found[0] == found[1]


def test_chance_is_what_constant_scores_reach():
    table = findings_table() | {'scores': np.full((80, 3), 0.5)}
    result = measures.evaluate(table, NAMES, False, resamples=2)
    for name in ('macro_auc', 'macro_average_precision'):
        row = result['figures'][name]
        assert row['figure']['value'] == pytest.approx(row['chance'], rel=1e-12)
    for row in result['per_name']:
        for name in FIGURES[:2]:
            assert row['figures'][name]['value'] == pytest.approx(row['chance'][name], rel=1e-12)
        assert row['chance']['average_precision'] == row['images'] / row['known']


def test_chance_of_sensitivity_is_that_of_random_scores():
    rng = np.random.default_rng(0)
    found = figures_of(rng.random(40_000), rng.random(40_000) < 0.5)[2]
    assert found == pytest.approx(0.1, abs=0.01)


def test_findings_of_one_kind_have_a_reason_and_are_left_out_of_the_means():
    table = findings_table(n=120)
    table['labels'][:, 0] = np.where(table['labels'][:, 0] == 1, -1, table['labels'][:, 0])
    table['labels'][:, 1] = np.where(table['labels'][:, 1] == 0, -1, table['labels'][:, 1])
    result = measures.evaluate(table, NAMES, False, resamples=200)
    reasons = 'no test image with mass', 'no test image known to be without nodule'
    for row, reason in zip(result['per_name'], reasons, strict=False):
        assert row['figures']['auc'] == {'value': None, 'low': None, 'high': None, 'reason': reason}
        assert row['chance'] == dict.fromkeys(FIGURES)
    headline = result['figures']['macro_auc']['figure']
    assert headline['value'] == result['per_name'][2]['figures']['auc']['value']
    assert headline['low'] < headline['value'] < headline['high']
    assert headline['reason'] == f'mean over 1 of 3 findings: {reasons[0]}; {reasons[1]}'
    assert [any(reason[1:] in note for note in result['notes']) for reason in reasons] == [True] * 2
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize('n', [0, 1, 2])
def test_a_handful_of_images_does_not_crash(n):
    table = {name: x[:n] for name, x in findings_table().items()}
    result = measures.evaluate(table, NAMES, False, resamples=20)
    json.dumps(result, allow_nan=False)
    assert result['figures']['macro_auc']['figure']['low'] is None


def test_interval_of_auc_is_near_delongs():
    """One image a patient: variance of the placements (DeLong et al. 1988)."""
    rng = np.random.default_rng(5)
    positive = np.arange(400) < 150
    scores = 1 / (1 + np.exp(-rng.normal(size=400) - positive))
    table = {'scores': scores[:, None], 'labels': positive[:, None].astype(int),
             'patients': np.arange(400).astype(str), 'image_ids': np.arange(400).astype(str)}
    wins = scores[positive][:, None] > scores[~positive]
    sd = math.sqrt(wins.mean(1).var(ddof=1) / 150 + wins.mean(0).var(ddof=1) / 250)
    found = measures.evaluate(table, ['mass'], False)['figures']['macro_auc']['figure']
    assert found['value'] == pytest.approx(wins.mean(), rel=1e-12)
    assert found['high'] - found['low'] == pytest.approx(2 * 1.96 * sd, rel=0.1)
