"""Measures of a batch's embeddings and assignments against closed forms."""

import numpy as np
import pytest

from cxr_jax.evaluation import health


def test_rows_that_point_anywhere():
    """Each coordinate of a random unit row has the deviation 1 / sqrt(D); the length is nothing."""
    rows = np.random.default_rng(0).normal(size=(4000, 16))
    longer = rows * np.random.default_rng(1).uniform(0.1, 10, (4000, 1))
    assert health.deviation(rows) == pytest.approx(1, abs=0.02)
    assert health.deviation(longer) == pytest.approx(health.deviation(rows))
    assert health.rankme(rows) == pytest.approx(16, rel=0.01)


def test_orthogonal_rows():
    """Singular values 1 and 3: the entropy is that of 1/4 and 3/4."""
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert health.rankme(np.diag([1.0, 3.0])) == pytest.approx(np.exp(entropy), rel=1e-5)
    assert health.deviation(np.diag([1.0, 3.0])) == pytest.approx(0.5 * np.sqrt(2))
    assert health.rankme(np.eye(5)) == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize('row', [np.array([0.3, -2.0, 5.0]), np.zeros(3)])
def test_one_row_for_all_is_a_collapse(row):
    rows = np.tile(row, (7, 1))
    found = health.health({'a': rows, 'b': rows}, {})
    assert abs(found['std']) < 1e-7
    assert (found['rank'], found['centred_rank']) == pytest.approx((1, 1), abs=1e-4)
    assert found['uniformity'] == pytest.approx(0 if row.any() else -4)
    assert found['positive'] == pytest.approx(found['negative'])


def test_one_line_for_all_is_half_a_collapse():
    """Two directions of one line: of full deviation, of rank 1."""
    rows = np.array([[1.0, 2.0], [-1.0, -2.0]])
    assert health.rankme(rows) == pytest.approx(1, abs=1e-4)
    assert health.deviation(rows) == pytest.approx((1 + 2) / np.sqrt(5) / 2 * np.sqrt(2))


def test_a_direction_that_all_share_counts_for_nothing():
    rows = np.random.default_rng(0).normal(size=(200, 8))
    found = health.health({'a': rows + 1000}, {})
    assert found['rank'] < 1.1
    assert found['centred_rank'] == pytest.approx(health.rankme(rows - rows.mean(0)))
    assert 'positive' not in found and found['negative'] == pytest.approx(1, abs=1e-4)


def test_alignment_and_uniformity_of_angles():
    """Unit rows at an angle a are 2 - 2 cos a apart, squared."""
    angles = np.array([0.0, np.pi / 2, np.pi])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    turned = np.stack([np.cos(angles + 0.3), np.sin(angles + 0.3)], axis=1) * 7
    assert health.alignment(rows, turned) == pytest.approx(2 - 2 * np.cos(0.3))
    # Two pairs at right angles, one opposite.
    expected = np.log((2 * np.exp(-4) + np.exp(-8)) / 3)
    assert health.uniformity(rows) == pytest.approx(expected)
    positive, negative = health.similarities({'a': rows, 'b': turned})
    assert positive == pytest.approx(np.cos(0.3))
    others = [np.cos(a - b - 0.3) for a in angles for b in angles if a != b]
    assert negative == pytest.approx(np.mean(others))
    found = health.health({'a': rows, 'b': turned}, {})
    assert found['alignment'] == pytest.approx(health.alignment(rows, turned))


def test_views_of_other_widths_are_not_compared():
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(5, width)) for width in (3, 4, 4))
    assert health.similarities({'a': a, 'b': b, 'c': c}) == health.similarities({'b': b, 'c': c})
    assert health.similarities({'a': a, 'b': b})[0] is None


def test_clusters():
    """Half of the rows sure of one of two clusters, the others torn between the next two."""
    rows = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.6, 0.4], [0, 0, 0.6, 0.4]])
    mean = np.array([0.25, 0.25, 0.3, 0.2])
    torn = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    found = health.clusters(rows)
    assert found['used'] == 3
    assert found['entropy'] == pytest.approx(-(mean * np.log(mean)).sum())
    assert found['row_entropy'] == pytest.approx(torn / 2)
    for alike in (np.full((6, 4), 0.25), np.tile([1.0, 0, 0, 0], (6, 1))):
        found = health.clusters(alike)
        assert found['entropy'] == pytest.approx(found['row_entropy'])


def test_distance_from_normal():
    """Of isotropic normal rows the expectation of |phi - exp(-t²/2)|² is (1 - exp(-t²)) / N, less
    t² exp(-t²) / N as their mean is taken from them; all rows alike, or one broad direction, are
    far from that."""
    rng = np.random.default_rng(0)
    points = np.linspace(-5, 5, 17)
    integrand = 1 - (1 + points**2) * np.exp(-(points**2))
    expected = np.trapezoid(integrand * np.exp(-(points**2) / 2), points)
    normal = [rng.normal(size=(400, 12)) for _ in range(8)]
    found = [health.distance_from_normal(rows) for rows in normal]
    assert np.mean(found) == pytest.approx(expected, rel=0.1)
    moved = health.distance_from_normal(3 * normal[0] - 50)
    assert moved == pytest.approx(found[0], rel=1e-3)
    broad = normal[0] * np.array([30] + [1] * 11)
    assert health.distance_from_normal(broad) > 10 * expected
    assert health.distance_from_normal(np.ones((400, 12))) > 10 * expected
