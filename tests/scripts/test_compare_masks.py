import numpy as np
import pytest

from scripts.compare_masks import COLUMNS, compare


def test_means_and_the_interval_of_the_difference_over_patients():
    """Closed form: with one image a patient, the bootstrap's spread is sd / sqrt(n)."""
    rng = np.random.default_rng(0)
    table = rng.uniform(0.2, 0.6, (200, 4))
    found = compare(table, np.arange(200).astype(str), resamples=4000)
    for k, name in enumerate(COLUMNS):
        assert found[name]['value'] == pytest.approx(table[:, k].mean())
    difference = table[:, 1] - table[:, 0]
    assert found['ail_difference']['value'] == pytest.approx(difference.mean())
    half = (found['ail_difference']['high'] - found['ail_difference']['low']) / 2
    assert half == pytest.approx(1.96 * difference.std() / 200**0.5, rel=0.06)
    assert (found['images'], found['patients']) == (200, 200)
    twice = compare(np.repeat(table, 2, axis=0), np.repeat(np.arange(200), 2), resamples=4000)
    wider = twice['ail_difference']['high'] - twice['ail_difference']['low']
    assert wider == pytest.approx(2 * half, rel=0.06)  # the same patients: no more certain
