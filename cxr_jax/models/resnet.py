"""ResNet (He et al. 2016) with torchvision's exact geometry: stride 2 on the 3x3, padding explicit.

Module names are torchvision's with dots as underscores (`layer1_0`, `downsample_conv`), so that
`torch_names` is a renaming.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from cxr_jax.models.conv import Conv, max_pool
from cxr_jax.models.norm import BatchNorm

STAGE_SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = {18: 1, 34: 1, 50: 4, 101: 4}


class Block(nn.Module):
    """Residual block: two 3x3 (basic), or 1x1, 3x3, 1x1 (bottleneck, expansion 4)."""

    width: int
    stride: int
    bottleneck: bool
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x, train: bool):
        if self.bottleneck:
            layout = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        else:
            layout = [(self.width, 3, self.stride), (self.width, 3, 1)]
        y = x
        for i, (features, size, stride) in enumerate(layout, 1):
            y = self.conv(features, size, stride, size // 2, name=f'conv{i}')(y)
            y = self.norm(name=f'bn{i}')(y, train)
            if i < len(layout):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = self.conv(y.shape[-1], 1, self.stride, name='downsample_conv')(x)
            x = self.norm(name='downsample_bn')(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images [B, H, W, C] -> maps of layer1 to layer4, [B, H/4, W/4, c] to [B, H/32, W/32, 8 c].

    `depth` 18, 34, 50 or 101; `width` of the stem (64 in the paper), c = width x expansion; `dtype`
    of the computation and the maps (parameters and statistics stay float32). `remat`: compute each
    block again for its gradient instead of keeping it.
    """

    depth: int = 50
    width: int = 64
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    smallest_image = 1

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(f'layer{i}' for i in range(1, len(STAGE_SIZES[self.depth]) + 1))

    @property
    def feature_width(self) -> int:
        return self.width * 2 ** (len(self.stages) - 1) * EXPANSION[self.depth]

    @nn.compact
    def __call__(self, x, train: bool, groups: int = 1):
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, axis_name=self.axis_name, groups=groups)
        # Argument 2 is `train`, behind the block itself and x.
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = conv(self.width, 7, 2, 3, name='conv1')(x)
        x = nn.relu(norm(name='bn1')(x, train))
        x = max_pool(x)
        maps = {}
        for i, stage in enumerate(self.stages):
            for j in range(STAGE_SIZES[self.depth][i]):
                x = block(
                    width=self.width * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    bottleneck=EXPANSION[self.depth] == 4,
                    conv=conv,
                    norm=norm,
                    name=f'{stage}_{j}',
                )(x, train)
            maps[stage] = x
        return maps
