"""Rank correlations of scripts.early_stop."""

import numpy as np
import pytest
from scipy import stats

from scripts.early_stop import Correlation, ranks, render, spearman, value_of


def test_ranks_and_their_correlation():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 30), rng.normal(size=30)
    np.testing.assert_array_equal(ranks(x), stats.rankdata(x))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert np.isnan(spearman(np.ones(4), y[:4]))


def test_within_tasks_their_levels_do_not_count():
    """Better and better from task to task, worse and worse in each."""
    x = np.array([3, 2, 1, 13, 12, 11, 23, 22, 21])
    y = np.array([0.1, 0.2, 0.3, 1.1, 1.2, 1.3, 2.1, 2.2, 2.3])
    found = Correlation(x, y, np.repeat(['a', 'b', 'c'], 3))
    assert found.figures(within=False)[0] == pytest.approx(spearman(x, y))
    value, low, high = found.figures(within=True)
    assert value == pytest.approx(-1) and low <= value <= high < 0
    assert found.figures(within=False)[0] > 0.7


def test_the_page_shows_each_criterion_and_run():
    rng = np.random.default_rng(1)
    names = ('probe', 'knn', 'loss', 'rank', 'sigreg')
    rows = []
    for seed in range(6):
        epochs = [{'epoch': k, 'step': k} | dict.fromkeys(names, 10.0 - k) for k in range(4)]
        epochs[2] |= {'probe': 9.5 + seed}
        rows.append({'task': 'moco', 'rate': 1.0, 'seed': seed, 'result': rng.random(),
                     'epochs': epochs})  # fmt: skip
    # At the end; the best of all epochs but that before training.
    assert [value_of(rows[0], name, False) for name in ('probe', 'loss')] == [7.0, 7.0]
    assert value_of(rows[0], 'probe', True) == 9.5 and value_of(rows[0], 'rank', True) == 9.0
    assert value_of(rows[0], 'loss', True) == 7.0
    page = render(rows)
    assert page.count('moco, 1 of its rate') == 6 and 'ridge probe' in page
