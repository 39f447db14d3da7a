"""DenseNet-121 (Huang et al. 2017, arXiv:1608.06993) with torchvision's exact geometry.

Module names are torchvision's with dots as underscores (`features_denseblock1_denselayer1`), so
that `torch_names` is a renaming.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from cxr_jax.models.conv import Conv, max_pool
from cxr_jax.models.norm import BatchNorm
from data_pipelines.errors import UserError

LAYERS = (6, 12, 24, 16)  # of the dense blocks
BOTTLENECK = 4  # channels of a layer's 1x1 convolution, in growths
SMALLEST_IMAGE = 29  # pixels; below, the last transition has nothing left to halve


class DenseLayer(nn.Module):
    """[B, H, W, C] -> [B, H, W, C + growth]: what came in, and behind it what the layer adds."""

    growth: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.relu(self.norm(name='norm1')(x, train))
        y = self.conv(BOTTLENECK * self.growth, 1, name='conv1')(y)
        y = nn.relu(self.norm(name='norm2')(y, train))
        y = self.conv(self.growth, 3, padding=1, name='conv2')(y)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Half the channels and half the size: [B, H, W, C] -> [B, H//2, W//2, C//2]."""

    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(self.norm(name='norm')(x, train))
        return average_pool(self.conv(x.shape[-1] // 2, 1, name='conv')(x))


def average_pool(x):
    """2x2 mean with stride 2: [B, H, W, C] -> [B, H//2, W//2, C]; an odd last line is left out."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


class DenseNet(nn.Module):
    """Images [B, H, W, C] -> maps of block1 to block4, [B, H/4, W/4, c] to [B, H/32, W/32, c'].

    The last one, of feature_width channels, is normalised and activated; the others are what their
    dense block puts out. `width` of the stem (64 in the paper), of which each layer adds half;
    `dtype` of the computation and the maps (parameters and statistics stay float32). `remat`:
    compute each layer again for its gradient instead of keeping it. UserError for images too small
    to be halved 5 times.
    """

    width: int = 64
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    stages = tuple(f'block{i}' for i in range(1, len(LAYERS) + 1))
    smallest_image = SMALLEST_IMAGE

    @property
    def growth(self) -> int:
        return (self.width + 1) // 2

    @property
    def feature_width(self) -> int:
        channels = 2 * self.width
        for layers in LAYERS:
            channels = channels // 2 + layers * self.growth
        return channels

    @nn.compact
    def __call__(self, x, train: bool, groups: int = 1):
        if min(x.shape[1:3]) < SMALLEST_IMAGE:
            raise UserError(
                f'DenseNet-121 cannot see images of {x.shape[1]} x {x.shape[2]} pixels; give it '
                f'{SMALLEST_IMAGE} or more, or use a ResNet (--config.encoder.name=resnet18).'
            )
        conv = functools.partial(Conv, dtype=self.dtype, fan='fan_in')
        norm = functools.partial(BatchNorm, axis_name=self.axis_name, groups=groups)
        # Argument 2 is `train`, behind the layer itself and x.
        layer = nn.remat(DenseLayer, static_argnums=(2,)) if self.remat else DenseLayer
        x = conv(self.width, 7, 2, 3, name='features_conv0')(x)
        x = nn.relu(norm(name='features_norm0')(x, train))
        x = max_pool(x)
        maps = {}
        for i, (stage, layers) in enumerate(zip(self.stages, LAYERS, strict=True), 1):
            for j in range(1, layers + 1):
                name = f'features_denseblock{i}_denselayer{j}'
                x = layer(self.growth, conv, norm, name=name)(x, train)
            maps[stage] = x
            if i < len(LAYERS):
                x = Transition(conv, norm, name=f'features_transition{i}')(x, train)
        return maps | {self.stages[-1]: nn.relu(norm(name='features_norm5')(x, train))}
