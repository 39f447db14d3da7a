"""Near copies of drawn films: every kind of copy is found, another film of the person is not."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.auditing.looks import SIDE, content_box, look_at
from data_pipelines.auditing.near import QUICK, near_pairs
from data_pipelines.raw.resize import pad_to_square_and_resize

FILMS, PIXELS = 24, 192


def film(seed: int, pixels: int = PIXELS, shift: float = 0.0) -> np.ndarray:
    """A smooth texture on [0, 1] of a random spectrum, the same for all sizes; `shift` bends it as
    another breath would."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:pixels, :pixels] / pixels
    bent = y + shift * np.sin(np.pi * y) * np.sin(np.pi * x)
    total = 1.5 * np.cos(2 * np.pi * (x - 0.5)) * np.cos(np.pi * (y - 0.5))  # what all share
    for _ in range(60):
        frequency = rng.uniform(1, 12, 2) * rng.choice([-1, 1], 2)
        wave = np.cos(2 * np.pi * (frequency[0] * bent + frequency[1] * x + rng.random()))
        total = total + wave / np.hypot(*frequency) ** 1.2
    return (total - total.min()) / np.ptp(total)


def prepared(image: np.ndarray, size: int = 80, bits: int = 8) -> np.ndarray:
    resized = pad_to_square_and_resize(image.astype(np.float32), size)
    return np.rint(resized * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def looks(images) -> np.ndarray:
    return np.stack([look_at(image, content_box(image)) for image in images])


def recompressed(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, 'JPEG', quality=60)
    return np.asarray(Image.open(file)) / 255


def cropped(image: np.ndarray) -> np.ndarray:
    side = round(0.9 * len(image))
    return image[3 : 3 + side, 14 : 14 + side]


COPIES = {
    'JPEG': lambda x: prepared(recompressed(x)),
    'crop': lambda x: prepared(cropped(x)),
    'gamma': lambda x: prepared(x**0.5),
    'mirror': lambda x: prepared(x[:, ::-1]),
    '16 bits': lambda x: prepared(x, bits=16),
    'size': lambda x: prepared(x, size=200),
    'padding': lambda x: prepared(np.pad(x, ((0, 0), (20, 40)))),
    'crop, mirror, gamma': lambda x: prepared(cropped(x)[:, ::-1] ** 1.6),
}


@pytest.fixture(scope='module')
def films():
    return [film(seed) for seed in range(FILMS)]


@pytest.mark.parametrize('kind', COPIES)
def test_a_copy_is_found_whatever_was_done_to_it(films, kind):
    """All of twelve copies, and no pair that is not one; among the films, and across two sets."""
    originals = looks([prepared(x) for x in films])
    copied = [2 * k for k in range(12)]
    copies = looks([COPIES[kind](films[k]) for k in copied])
    found = near_pairs(originals, copies)
    assert list(zip(found.i, found.j, strict=True)) == [(k, n) for n, k in enumerate(copied)]
    inside = near_pairs(np.concatenate([originals, copies]))
    pairs = set(zip(inside.i.tolist(), inside.j.tolist(), strict=True))
    assert pairs == {(k, FILMS + n) for n, k in enumerate(copied)}
    if 'crop' not in kind:
        quick = near_pairs(originals, copies, QUICK)
        assert list(zip(quick.i, quick.j, strict=True)) == [(k, n) for n, k in enumerate(copied)]


def test_another_film_of_the_same_person_is_no_copy(films):
    """Bent by 6 % of the image in its middle."""
    others = looks([prepared(film(seed, shift=0.06)) for seed in range(12)])
    assert not len(near_pairs(looks([prepared(x) for x in films]), others).i)


def test_few_images_and_images_without_content():
    nothing = np.zeros((0, SIDE, SIDE), np.uint8)
    one = looks([prepared(film(0))])
    for first, second in ((nothing, None), (nothing, one), (one, nothing), (one, None)):
        assert not len(near_pairs(first, second).i)
    flat = np.full((3, SIDE, SIDE), 127, np.uint8)
    assert not len(near_pairs(flat).i)


def test_a_look_does_not_depend_on_gamma_margins_size_or_bits():
    image = film(1)
    look = looks([prepared(image)])[0].astype(int)
    for other in (
        prepared(image**2), prepared(image, 160), prepared(image, bits=16),
        prepared(np.pad(image, ((0, 0), (24, 24))), 100),
    ):  # fmt: skip
        assert abs(looks([other])[0].astype(int) - look).mean() < 4
