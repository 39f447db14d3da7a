"""The phantom: X-ray physics, anatomy, and the four classes as what they mean."""
import dataclasses
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.synthetic.cases import CLASSES, Case, first_cases
from data_pipelines.synthetic.imaging import (
    BONE_PER_CM,
    WATER_PER_CM,
    Phantom,
    Pose,
    draw_phantom,
    draw_radiograph,
    expose,
)
from data_pipelines.synthetic.sites import SITES

WEIGHTS = (0.3, 0.3, 0.2, 0.2)
SIZE = 96


def flat_phantom(water: np.ndarray) -> Phantom:
    pose = Pose(np.eye(2, 3), water.shape)
    lungs = np.ones(water.shape, bool)
    return Phantom(water.astype(np.float32), np.zeros(water.shape, np.float32), lungs, [], pose, 1)


def quiet_site(**changes):
    plain = {'scatter': 0.0, 'blur': 1e-3, 'sharpening': 0.0, 'collimator': 0.0, 'exposure': 1e14}
    return dataclasses.replace(SITES[0], shutter=False, **plain | changes)


def log_exposure(values: np.ndarray) -> np.ndarray:
    """Inverts the film-like response up to a factor and an offset."""
    return np.log(values / (1 - values)).astype(float)


def test_beer_lambert_law_and_scatter():
    water = np.repeat(np.repeat([[0.0, 4.0, 10.0]], 40, 1), 120, 0)
    shown = log_exposure(expose(flat_phantom(water), quiet_site(), np.random.default_rng(0)))
    air, thin, thick = shown[60, 20], shown[60, 60], shown[60, 100]
    assert (thin - air) / (thick - air) == pytest.approx(4 / 10, rel=1e-3)
    fogged = log_exposure(
        expose(flat_phantom(water), quiet_site(scatter=0.5), np.random.default_rng(0))
    )
    assert fogged[60, 100] - fogged[60, 60] < 0.95 * (thick - thin)
    assert BONE_PER_CM > 2 * WATER_PER_CM


def test_noise_grows_as_photons_fall():
    water = np.repeat(np.repeat([[2.0, 10.0]], 150, 1), 300, 0)
    site = quiet_site(exposure=1e5)
    shown = log_exposure(expose(flat_phantom(water), site, np.random.default_rng(0)))
    ratio = shown[:, 155:].std() / shown[:, :145].std()
    # The deviation of the logarithm of a Poisson count N is 1 / sqrt(N).
    assert ratio == pytest.approx(np.exp(WATER_PER_CM * 8 / 2), rel=0.03)


def test_projection_agrees_with_scipy():
    case = first_cases(1, 0, WEIGHTS)[0]
    pose = draw_phantom(case, SIZE).pose
    sheet = ndimage.gaussian_filter(np.random.default_rng(0).random((110, 120)), 3)
    sheet = sheet.astype(np.float32)
    swapped = pose.matrix[::-1, [1, 0, 2]]
    expected = ndimage.affine_transform(
        sheet, swapped[:, :2], swapped[:, 2], pose.shape, order=1, cval=np.nan
    )
    known = np.isfinite(expected)
    assert known.mean() > 0.5
    np.testing.assert_allclose(pose.project(sheet)[known], expected[known], atol=2e-3)
    columns, rows = np.array([3.0, 50.0]), np.array([7.0, 60.0])
    there = pose.matrix @ np.stack([columns, rows, np.ones(2)])
    np.testing.assert_allclose(pose.forward(*there), (columns, rows), atol=1e-9)


@pytest.fixture(scope='module')
def phantoms() -> list[tuple[Case, Phantom]]:
    return [(c, draw_phantom(c, SIZE)) for c in first_cases(80, 2, WEIGHTS)]


def healthy(case: Case) -> Phantom:
    return draw_phantom(dataclasses.replace(case, label=0), SIZE)


def test_lung_masks_are_two_lungs_that_hold_air(phantoms):
    right_larger = []
    for case, phantom in phantoms:
        mask = phantom.lung_mask
        parts = np.sort(np.bincount(ndimage.label(mask)[0].ravel())[1:])[::-1]
        # At this size a thin tip can lose touch.
        assert parts[1] > 0.25 * parts[0] and parts[2:].sum() < 0.01 * mask.sum()
        assert 0.1 < mask.mean() < 0.5
        twin = healthy(case)
        np.testing.assert_array_equal(mask, twin.lung_mask)
        water = twin.pose.project(twin.water)
        hull = mask[:, mask.any(0)].any(1).nonzero()[0]
        between = water[hull[0] : hull[-1]][:, mask.any(0)][~mask[hull[0] : hull[-1], mask.any(0)]]
        assert water[mask].mean() < 0.75 * np.median(between)
        middle = mask.any(0).nonzero()[0][[0, -1]].mean()
        right = mask[:, : round(middle)].sum()
        right_larger.append(right > mask.sum() - right)
    assert np.mean(right_larger) > 0.8


def test_boxes_hold_the_lesions(phantoms):
    checked = 0
    for case, phantom in phantoms:
        change = np.abs(phantom.pose.project(phantom.water - healthy(case).water))
        if case.label == 0:
            assert not phantom.boxes and change.max() == 0
            continue
        inside = np.zeros(change.shape, bool)
        for x, y, w, h in phantom.boxes:
            x0, y0 = max(int(x) - 1, 0), max(int(y) - 1, 0)
            inside[y0 : int(np.ceil(y + h)) + 1, x0 : int(np.ceil(x + w)) + 1] = True
            assert change[y0 : int(y + h) + 1, x0 : int(x + w) + 1].max() > 0.2
        assert change[~inside].max() < 0.55 * change.max()
        checked += 1
    assert checked > 40


def test_classes_are_what_they_mean(phantoms):
    kinds = Counter()
    for case, phantom in phantoms:
        rows, columns = np.nonzero(phantom.lung_mask)
        middle = (columns.min() + columns.max()) / 2
        centres = [(x + w / 2, y + h / 2) for x, y, w, h in phantom.boxes]
        sides = {x > middle for x, _ in centres}
        down = [(y - rows.min()) / (rows.max() - rows.min()) for _, y in centres]
        off = [abs(x - middle) / (columns.max() - middle) for x, _ in centres]
        kinds[CLASSES[case.label]] += 1
        if case.label == 1:
            assert len(centres) >= 4 and sides == {True, False}
            assert np.mean(down) > 0.5 and np.mean(off) > 0.5
        if case.label == 2:
            assert 1 <= len(centres) <= 2 and len(sides) == 1
            assert max(down) < 0.65
    assert min(kinds[name] for name in CLASSES) >= 10


def test_most_lesions_are_visible(phantoms):
    contrasts = []
    for case, phantom in phantoms:
        if case.label == 0:
            continue
        case = dataclasses.replace(case, marker=0)
        change = draw_radiograph(case, phantom) - draw_radiograph(case, healthy(case))
        strongest = np.sort(np.abs(change[phantom.lung_mask]))
        contrasts.append(strongest[-len(strongest) // 50])
    assert np.mean(np.array(contrasts) > 0.05) > 0.85
