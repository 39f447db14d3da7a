"""Retrieval of an image by its other view, and intervals of what is forgotten."""

import numpy as np
import pytest

from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.evaluation.retention import over_draws, over_patients, retrieval


def plain_retrieval(views):
    """Pair by pair and image by image."""
    hits = np.zeros(len(views[0]))
    pairs = [(a, b) for a in range(len(views)) for b in range(len(views)) if a != b]
    for a, b in pairs:
        for i, row in enumerate(views[a]):
            cosines = [row @ x / np.linalg.norm(row) / np.linalg.norm(x) for x in views[b]]
            others = cosines[:i] + cosines[i + 1 :]
            hits[i] += cosines[i] > max(others)
    return hits / len(pairs)


@pytest.mark.parametrize(('count', 'batch', 'width'), [(2, 2, 3), (2, 9, 2), (3, 7, 4), (8, 5, 6)])
def test_retrieval(count, batch, width):
    rng = np.random.default_rng(batch)
    image = rng.normal(size=(batch, width))
    views = [rng.uniform(0.5, 3, (batch, 1)) * (image + 0.6 * rng.normal(size=image.shape))
             for _ in range(count)]  # fmt: skip
    found = retrieval(views)
    np.testing.assert_allclose(found, plain_retrieval(views))
    assert batch == 2 or 0 < found.mean() < 1


def test_what_is_easy_is_found_and_what_collapsed_is_not():
    rows = np.eye(4)
    np.testing.assert_array_equal(retrieval([rows, 2 * rows + 0.1]), 1)
    np.testing.assert_array_equal(retrieval([np.ones((4, 3)), np.ones((4, 3))]), 0)
    np.testing.assert_array_equal(retrieval([rows, rows[::-1]]), 0)
    # Noise finds one of as many as there are.
    rng = np.random.default_rng(0)
    found = retrieval([rng.normal(size=(400, 8)), rng.normal(size=(400, 8))])
    assert found.mean() == pytest.approx(1 / 400, abs=4 * (1 / 400 / 800) ** 0.5)


def test_intervals_over_patients():
    """Every patient has two images of one value: the interval is that of 40 and not of 80."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f'p{n}' for n in range(40)], 2)
    first = np.repeat(rng.integers(0, 2, 40), 2).astype(float)
    values = [first, np.where(np.arange(80) < 20, 0.0, first), first]
    found = over_patients(values, patients, Draws(4000, 1))
    for (cell, change), own in zip(found, values, strict=True):
        assert cell['value'] == pytest.approx(own.mean())
        assert change['value'] == pytest.approx(own.mean() - first.mean())
        assert change['low'] <= change['value'] <= change['high']
    error = first[::2].std() / 40**0.5
    cell = found[0][0]
    assert (cell['high'] - cell['low']) / 2 == pytest.approx(1.96 * error, rel=0.15)
    # Equal values change by nothing, whoever is drawn.
    assert found[2][1] == {'value': 0.0, 'low': 0.0, 'high': 0.0, 'reason': ''}
    assert found[1][1]['high'] < 0


def test_ranges_over_draws():
    values = [np.array([0.5, 0.7, 0.6]), np.array([0.4, 0.5, 0.6]), np.array([0.1, np.nan, 0.2])]
    (own, none), (later, change), (broken, _) = over_draws(values)
    assert own == {'value': pytest.approx(0.6), 'low': 0.5, 'high': 0.7, 'reason': ''}
    assert none['low'] == none['high'] == 0
    assert later['value'] == pytest.approx(0.5)
    assert (change['low'], change['high']) == (pytest.approx(-0.2), 0.0)
    assert broken['value'] is None and 'finite' in broken['reason']
