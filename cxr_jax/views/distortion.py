"""Models Genesis' spatial distortions (Zhou et al. 2021, arXiv:2004.07882) of one image [S, S, C].

Sizes and rates are those of the authors' code (github.com/MrGiovanni/ModelsGenesis, keras/utils.py,
which is 3-D), its depth axis left out.
"""

import jax
import jax.numpy as jnp

# Windows for local shuffling: 10,000 with sides up to a tenth of 64 x 64 x 32 voxels, so 3.5, 3.5
# and 2 on average, have this many times the volume of the cube. As many in 2-D would leave nothing.
SHUFFLE_COVERAGE = 10_000 * 3.5 * 3.5 * 2 / (64 * 64 * 32)
# After r rounds a cell is still where it began, or tied to another one, with probability 2**-r.
ROUNDS = 12
BOXES, GO_ON, MARGIN = 5, 0.95, 3  # painted at most; probability of each next one; pixels


def random_flips(key, image, rate: float):
    """Up to three turns, each only if the one before came, with probability `rate`.

    A turn mirrors one of three axes: rows, columns or, as one of the reference's is, that of a
    single channel, which changes nothing (channels of colours are not mirrored).
    """
    coin_key, axis_key = jax.random.split(key)
    turns = jnp.cumprod(jax.random.bernoulli(coin_key, rate, (3,)).astype(int))
    axes = jax.random.randint(axis_key, (3,), 0, 3)
    for axis in (0, 1):
        odd = (turns * (axes == axis)).sum() % 2 == 1
        image = jnp.where(odd, jnp.flip(image, axis), image)
    return image


def shuffle_locally(key, image):
    """Pixels change places inside hundreds of small windows; later windows overwrite earlier ones.

    Every window takes its values from the original image, so some are lost and others doubled.
    """
    size = image.shape[0]
    window_key, seed_key = jax.random.split(key)
    corners, sides = shuffle_windows(window_key, size)
    seeds = jax.random.bits(seed_key, (len(sides),), 'uint32')
    # What each pixel shows is worked out from its last window alone: no loop over the windows, and
    # no scatter whose writes to one pixel would come in any order.
    last = last_window(corners, sides, size)
    (top, left), (height, width) = (jnp.moveaxis(x[last], -1, 0) for x in (corners, sides))
    rows, columns = jnp.arange(size)[:, None], jnp.arange(size)
    cell = permuted((rows - top) * width + columns - left, height * width, seeds[last])
    source = (top + cell // width) * size + left + cell % width
    source = jnp.where(last >= 0, source, rows * size + columns)
    return image.reshape(-1, image.shape[-1])[source]


def window_count(size: int) -> tuple[int, int]:
    """(number of windows, longest side) for images of `size` pixels.

    Sides are uniform from 1 to a tenth of the image's; with as many windows as this, their area is
    on average SHUFFLE_COVERAGE times the image's.
    """
    largest = max(size // 10, 1)
    return round(SHUFFLE_COVERAGE * size**2 / ((1 + largest) / 2) ** 2), largest


def shuffle_windows(key, size: int):
    """Corners and sides [K, 2] of window_count windows, anywhere inside the image."""
    # A side of 1 is allowed, as in the reference: such a window may change nothing.
    count, largest = window_count(size)
    side_key, corner_key = jax.random.split(key)
    sides = jax.random.randint(side_key, (count, 2), 1, largest + 1)
    return jax.random.randint(corner_key, (count, 2), 0, size - sides + 1), sides


def last_window(corners, sides, size: int):
    """Number of the last of the windows that covers each pixel, -1 for none: [size, size]."""
    _, largest = window_count(size)
    heights, numbers = sides[:, 0], jnp.arange(len(sides))
    # Its rows are two overlapping runs of 2**level rows, which are marked by their first ones ...
    levels = largest.bit_length()
    level = (heights[:, None] >= 2 ** jnp.arange(1, levels)).sum(1)
    rows = jnp.stack([corners[:, 0], corners[:, 0] + heights - 2**level], axis=1)
    step = jnp.arange(largest)
    columns = jnp.where(step < sides[:, 1:], corners[:, 1:] + step, size)  # `size`: left out
    marks = jnp.full((levels, size, size), -1)
    where = level[:, None, None], rows[:, :, None], columns[:, None, :]
    marks = marks.at[where].max(numbers[:, None, None], mode='drop')
    # ... and a run is two of half its length. None reaches beyond the image, so none comes round.
    covering = marks[-1]
    for level in reversed(range(levels - 1)):
        halves = jnp.maximum(covering, jnp.roll(covering, 2**level, axis=0))
        covering = jnp.maximum(halves, marks[level])
    return covering


def permuted(index, count, seed):
    """Where a random permutation of `count` (up to 2**16) cells, chosen by `seed`, puts `index`.

    Elementwise over arrays, by swap-or-not (Hoang, Morris and Rogaway 2012, An enciphering scheme
    based on a card shuffle): in each round a random number pairs every cell with another one, and
    a coin that the two share decides whether they change places.
    """
    index, count, seed = (jnp.asarray(x).astype(jnp.uint32) for x in (index, count, seed))
    for _ in range(ROUNDS):
        seed = _hash(seed + jnp.uint32(0x9E3779B9))
        number = (seed >> 16) * count >> 16
        partner = jnp.where(index > number, number + count - index, number - index)
        coin = _hash(seed ^ jnp.maximum(index, partner)) >> 31
        index = jnp.where(coin == 1, partner, index)
    return index.astype(int)


def _hash(x):
    """Mixes the bits of uint32 (the last step of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def paint(key, image, inside: float):
    """Noise, uniform in [0, 1) and new for every pixel, in some boxes or everywhere but there.

    `inside`: probability of in-painting (up to 5 boxes of a sixth to a third of the side are
    noise), else out-painting (1 to 5 boxes of about half the side are kept).
    """
    choice_key, in_key, out_key, noise_key = jax.random.split(key, 4)
    size = image.shape[0]
    covered = _boxes(in_key, size, (size // 6, size // 3), sure=False)
    kept = _boxes(out_key, size, (size - 4 * size // 7, size - 3 * size // 7), sure=True)
    # Boxes that overlap are painted twice in the reference, which noise cannot tell from once.
    noise = jax.random.uniform(noise_key, image.shape, image.dtype)
    painted = jnp.where(jax.random.bernoulli(choice_key, inside), covered, ~kept)
    return jnp.where(painted[..., None], noise, image)


def _boxes(key, size: int, sides: tuple[int, int], sure: bool):
    """[size, size]: inside some of up to BOXES boxes, each there only if the one before is."""
    side_key, corner_key, coin_key = jax.random.split(key, 3)
    side = jax.random.randint(side_key, (BOXES, 2), sides[0], sides[1] + 1)
    corner = jax.random.randint(corner_key, (BOXES, 2), MARGIN, size - MARGIN - side + 1)
    coins = jax.random.bernoulli(coin_key, GO_ON, (BOXES,))
    # The first tails ends the loop.
    drawn = jnp.cumprod((coins.at[0].set(True) if sure else coins).astype(int)) == 1
    place = jnp.arange(size)
    inside = (place >= corner[..., None]) & (place < (corner + side)[..., None])  # [BOXES, 2, size]
    boxes = inside[:, 0, :, None] & inside[:, 1, None, :] & drawn[:, None, None]
    return boxes.any(0)
