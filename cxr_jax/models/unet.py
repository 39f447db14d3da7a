"""A compact U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with batch norm and zero padding."""

import flax.linen as nn
import jax.numpy as jnp

from cxr_jax.models.conv import Conv
from cxr_jax.models.encoder import Contract, Encoder, EncoderSettings, compute_dtype
from cxr_jax.models.norm import BatchNorm
from cxr_jax.runtime.parallel import AXIS

PATCH = 2  # pixels of the image along each side of one pixel of the first feature map


class DoubleConv(nn.Module):
    """Twice convolution 3x3, batch norm, ReLU: [B, H, W, C] -> [B, H, W, features]."""

    features: int
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x, train: bool):
        for i in (1, 2):
            x = Conv(self.features, 3, 1, 1, dtype=self.dtype, name=f'conv{i}')(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name, name=f'bn{i}')(x, train))
        return x


class UNet(nn.Module):
    """Images [B, S, S, 1] -> {'logits': [B, S, S, 1]}, at least float32.

    The network works on 2x2 patches and answers with four logits each (sub-pixel convolution, Shi
    et al. 2016, arXiv:1609.05158): at full size it would spend most of its time on a few channels.
    From there the image is halved `depth` times, so S must be a multiple of `multiple`. `width`:
    channels of the first map, doubled by each halving (the paper: 64 and 4). The way up enlarges by
    repetition, where the paper learns an up-convolution.
    """

    width: int = 16
    depth: int = 3
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    stages = ('logits',)
    feature_width = 1

    @property
    def smallest_image(self) -> int:
        return self.multiple

    @property
    def multiple(self) -> int:
        """What the side of an image must be a multiple of."""
        return PATCH * 2**self.depth

    @nn.compact
    def __call__(self, x, train: bool, groups: int = 1):
        def block(level: int, name: str):
            return DoubleConv(self.width * 2**level, self.dtype, self.axis_name, name=name)

        x, skips = to_patches(x), []
        for level in range(self.depth):
            x = block(level, f'down{level}')(x, train)
            skips.append(x)
            x = halve(x)
        x = block(self.depth, 'bottom')(x, train)
        for level in reversed(range(self.depth)):
            x = jnp.concatenate([double(x), skips[level]], axis=-1)
            x = block(level, f'up{level}')(x, train)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return {'logits': from_patches(nn.Dense(PATCH**2, name='logits')(x))}


def build_unet(width: int, depth: int, dtype: str) -> Encoder:
    """U-Net over images that are standardised one by one: its contract leaves them as they are."""
    network = UNet(width, depth, jnp.dtype(compute_dtype(dtype)), axis_name=AXIS)
    contract = Contract(
        size=None, bits=None, channels=1, region='full', mean=0.0, std=1.0, fill=0.0
    )
    return Encoder(EncoderSettings('unet', width, dtype=dtype), network, contract)


def to_patches(x):
    """[B, S, S, 1] -> [B, S/2, S/2, 4]: each 2x2 patch, row by row, as channels."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH)
    return x.transpose(0, 1, 3, 2, 4).reshape(batch, height // PATCH, width // PATCH, PATCH**2)


def from_patches(x):
    """[B, s, s, 4 C] -> [B, 2 s, 2 s, C]; of one channel the inverse of to_patches."""
    batch, height, width, values = x.shape
    channels = values // PATCH**2
    x = x.reshape(batch, height, width, PATCH, PATCH * channels).transpose(0, 1, 3, 2, 4)
    return x.reshape(batch, height * PATCH, width * PATCH, channels)


def halve(x):
    """Maximum of each 2x2 square: [B, H, W, C] -> [B, H/2, W/2, C]."""
    # Not x.max: its gradient divides by the number of pixels that equal the maximum, and where XLA
    # computes those twice, with other rounding, that number is 0.
    for axis in (1, 2):
        shape = list(x.shape)
        shape[axis : axis + 1] = [shape[axis] // 2, 2]
        even, odd = jnp.split(x.reshape(shape), 2, axis + 1)
        x = jnp.maximum(even, odd).squeeze(axis + 1)
    return x


def double(x):
    """Every pixel as a 2x2 square: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
