"""Overlap of masks and means over images against closed forms."""

import numpy as np
import pytest

from cxr_jax.evaluation.measures.segmentation import dice_and_iou, mean_figures


def test_dice_and_iou_of_two_squares():
    predicted, true = np.zeros((2, 10, 10), bool)
    predicted[:4, :4] = true[2:6, 2:6] = True
    assert dice_and_iou(predicted, true) == (2 * 4 / 32, 4 / 28)
    assert dice_and_iou(true, true) == (1, 1) and dice_and_iou(~true, true) == (0, 0)
    assert np.isnan(dice_and_iou(0 * true, 0 * true)).all()


def test_figures_are_means_over_images_with_whole_patients_drawn():
    values = {'dice': np.array([0.9, 0.7, 0.2])}
    found = mean_figures(values, ['a', 'a', 'b'], resamples=4000)['dice']
    # Two patients: both draws are a with probability 1/4, both b with 1/4, else each once.
    assert found['value'] == pytest.approx(0.6)
    assert (found['low'], found['high']) == (pytest.approx(0.2), pytest.approx(0.8))
    alone = mean_figures(values, ['a', 'a', 'a'])['dice']
    assert alone['low'] is None and 'one patient' in alone['reason']
