"""Nine patches of an image, one of each cell of a 3x3 grid."""

import dataclasses

import jax
import jax.numpy as jnp

from cxr_jax.views.geometry import resize
from data_pipelines.errors import UserError

CELLS = 3  # on a side
PATCHES = CELLS * CELLS


@dataclasses.dataclass(frozen=True)
class PatchGrid:
    """A crop of an image, cut into cells, and a patch at a random place within each of them.

    The room to move keeps a patch's border from telling which one continues it (Doersch et al.
    2015, section 3.1).
    """

    size: int  # pixels of the crop that holds the grid
    short_side: float  # the image is resized to this times that
    jitter: float  # a patch is smaller than its cell by this share
    flip: float  # probability of a flip of the image

    @property
    def cell(self) -> int:
        """Pixels of a cell."""
        return self.size // CELLS

    @property
    def patch(self) -> int:
        """Pixels of a patch."""
        return self.cell - round(self.cell * self.jitter)

    def check(self) -> str:
        """What the grid is made of; UserError if nothing is left."""
        if self.patch < 1:
            raise UserError(
                f'image_size={self.size} and jitter={self.jitter} leave patches of no pixel; '
                'raise image_size or lower jitter.'
            )
        return f'cells of {self.cell}, patches of {self.patch} pixels'

    def __call__(self, key, image):
        """Image [R, R, C] -> patches [9, p, p, C] in row-major order of the grid."""
        flip_key, crop_key, patch_key = jax.random.split(key, 3)
        image = resize(image, round(self.size * self.short_side))
        image = jnp.where(jax.random.bernoulli(flip_key, self.flip), image[:, ::-1], image)
        crop = _random_window(crop_key, image, self.size)
        cells = self.cell * jnp.stack(jnp.divmod(jnp.arange(PATCHES), CELLS), axis=1)
        moves = jax.random.randint(patch_key, (PATCHES, 2), 0, self.cell - self.patch + 1)
        shape = (self.patch, self.patch, image.shape[-1])
        patches = jax.vmap(lambda at: jax.lax.dynamic_slice(crop, (at[0], at[1], 0), shape))
        return patches(cells + moves)


def _random_window(key, image, size: int):
    """Random [size, size, C] window of a square image."""
    corner = jax.random.randint(key, (2,), 0, image.shape[0] - size + 1)
    shape = (size, size, image.shape[-1])
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)
