"""A network of two convolutions, the encoder `tiny` in tests: it compiles in a moment.

Whatever needs this encoder imports this module; a process of the real program does not know it.
"""

import flax.linen as nn
import jax.numpy as jnp

from cxr_jax.models.conv import Conv
from cxr_jax.models.encoder import ENCODERS
from cxr_jax.models.norm import BatchNorm
from cxr_jax.runtime import parallel

NAME = 'tiny'


class SmallNetwork(nn.Module):
    """Two convolutions of stride 2, each with batch norm; fields as of models.resnet.ResNet."""

    width: int = 8
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = parallel.AXIS
    remat: bool = False

    stages = ('first', 'last')
    smallest_image = 1

    @property
    def feature_width(self) -> int:
        return 2 * self.width

    @nn.compact
    def __call__(self, x, train: bool, groups: int = 1):
        maps = {}
        for name, width in zip(self.stages, (self.width, 2 * self.width), strict=True):
            x = Conv(width, 3, 2, 1, dtype=self.dtype, name=f'{name}_conv')(x)
            x = BatchNorm(self.axis_name, groups, name=f'{name}_norm')(x, train)
            x = maps[name] = nn.relu(x)
        return maps


ENCODERS[NAME] = SmallNetwork
