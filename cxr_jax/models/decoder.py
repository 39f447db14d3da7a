"""The way up of a U-Net (Ronneberger et al. 2015, arXiv:1505.04597) over an encoder's own maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cxr_jax.models.conv import Conv
from cxr_jax.models.norm import BatchNorm, InstanceNorm
from cxr_jax.models.unet import PATCH, from_patches

NORMS = ('batch', 'instance')


class Decoder(nn.Module):
    """Maps of an encoder's stages, [B, h, w, C] from the largest to the smallest -> an image.

    Image [B, size, size, channels] in (0, 1), at least float32. Every map but the last is a skip;
    up to half of the `size` it goes on without. As in models/unet.py four logits a pixel and
    channel make the rest: at full size it would spend most of its time on a few channels. `width`:
    channels at half of the size; each halving doubles them. `norm`: one of NORMS.
    """

    width: int = 32
    norm: str = 'batch'
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    channels: int = 1  # of the image

    @nn.compact
    def __call__(self, maps: list, size: int, train: bool = True):
        # Maps need not be halves of each other (DenseNet rounds down, ResNet up), so every step
        # goes to the size of its skip, whatever that is.
        x, half = maps[-1].astype(self.dtype), -(-size // PATCH)
        steps = [(skip.shape[1], skip) for skip in reversed(maps[:-1])]
        side = maps[0].shape[1]
        while side < half:
            side = min(2 * side, half)
            steps.append((side, None))
        for level, (side, skip) in zip(reversed(range(len(steps))), steps, strict=True):
            x = enlarge(x, side)
            if skip is not None:
                x = jnp.concatenate([x, skip.astype(self.dtype)], axis=-1)
            x = self._block(x, self.width * 2**level, f'up{level}', train)
        # The loss is taken of these: bfloat16 would round the grey values to 1 in 256.
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        logits = nn.Dense(PATCH**2 * self.channels, name='logits')(x)
        return nn.sigmoid(from_patches(enlarge(logits, half))[:, :size, :size])

    def _block(self, x, features: int, name: str, train: bool):
        """Twice convolution 3x3, normalisation, ReLU: [B, H, W, C] -> [B, H, W, features]."""
        for i in (1, 2):
            x = Conv(features, 3, 1, 1, dtype=self.dtype, name=f'{name}_conv{i}')(x)
            if self.norm == 'batch':
                x = BatchNorm(axis_name=self.axis_name, name=f'{name}_norm{i}')(x, train)
            else:
                x = InstanceNorm(name=f'{name}_norm{i}')(x)
            x = nn.relu(x)
        return x


def enlarge(x, side: int):
    """[B, h, w, C] -> [B, side, side, C], bilinear."""
    # As two matrix products, so that the gradient is two products too and no scatter.
    if x.shape[1] == side:
        return x
    return jax.image.resize(x, (x.shape[0], side, side, x.shape[-1]), 'linear')
