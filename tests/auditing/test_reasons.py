"""Each reason, with an image that is made up for it; an ordinary chest has none."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.auditing.looks import content_box, look_at
from data_pipelines.auditing.measures import FRONTAL, measure
from data_pipelines.auditing.reasons import reasons

SIDE = 96


def chest() -> np.ndarray:
    """The coarse pattern of an average frontal radiograph, uint8 [SIDE, SIDE]."""
    pattern = np.concatenate([FRONTAL, FRONTAL[:, ::-1]], axis=1) * 2.3
    small = Image.fromarray(pattern.astype(np.float32))
    smooth = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.clip(smooth + np.random.default_rng(0).normal(0, 4, smooth.shape), 0, 255).astype(
        np.uint8
    )


def reasons_of(image: np.ndarray, original_size=(SIDE, SIDE)) -> dict[str, str]:
    box = content_box(image)
    return reasons(measure(image, box, look_at(image, box), original_size))


def framed(image: np.ndarray, top: int, left: int) -> np.ndarray:
    result = np.zeros_like(image)
    result[top : SIDE - top, left : SIDE - left] = image[top : SIDE - top, left : SIDE - left]
    return result


def test_an_ordinary_chest_has_none_in_any_bit_depth_and_padding_is_no_collimation():
    image = chest()
    assert reasons_of(image) == reasons_of(image.astype(np.uint16) * 257) == {}
    # What was padded to a square was 96 x 48 before.
    assert 'collimated' not in reasons_of(framed(image, 0, 24), (SIDE, SIDE // 2))


def with_letters(image: np.ndarray) -> np.ndarray:
    image = image // 2
    for k in range(14):
        for line in (6, 11):
            image[line : line + 3, 4 + 6 * k : 6 + 6 * k] = 255
    return image


def slice_of_a_volume() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    body = (x / 0.48) ** 2 + (y / 0.33) ** 2 < 1
    lungs = (abs(x) / 1 - 0.22) ** 2 / 0.12**2 + (y / 0.2) ** 2 < 1
    return np.where(lungs, 30, np.where(body, 150, 0)).astype(np.uint8)


CASES = {
    'nearly constant': (lambda: np.full((SIDE, SIDE), 90, np.uint8), 'within 0.0 %'),
    'inverted polarity': (lambda: 255 - chest(), 'correlation -0.9'),
    'slice of a volume': (slice_of_a_volume, 'the brightest 0.0'),
    'not a frontal chest': (lambda: np.tile(chest()[:, :12], (1, 8))[::-1], 'correlation'),
    'lateral': (lambda: np.roll(chest(), SIDE // 4, 1), 'mirror image'),
    # 9 x 24 pixels have 8 letters of 3 x 2.
    'burned-in text': (lambda: with_letters(chest()), 'are 22 %'),
    # 1 - (72 x 80) / (96 x 96)
    'collimated': (lambda: framed(chest() // 2 + 60, 12, 8), '38 % of it is empty border'),
}


@pytest.mark.parametrize('kind', CASES)
def test_each_reason_with_its_measure(kind):
    make, measured = CASES[kind]
    found = reasons_of(make())
    assert measured in found[kind]
