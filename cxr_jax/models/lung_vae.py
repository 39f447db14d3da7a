"""lungVAE (Selvan et al. 2020, arXiv:2005.10052): a lung segmenter, as published, for prediction.

A U-Net whose bottleneck also sees a latent vector, which a variational encoder of its own draws
from the image. Module names are those of the published weights.
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models import torch_names
from cxr_jax.models.conv import xla_convolution
from cxr_jax.models.lung_vae_images import CANVAS, to_canvas, to_mask
from cxr_jax.models.norm import BatchNorm
from data_pipelines.errors import UserError

HIDDEN, LATENT = 16, 8  # of the published weights
BATCH_NORM = ('image', 'running')


class Conv(nn.Module):
    """3x3 convolution with bias, the size kept."""

    features: int

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        kernel = self.param('kernel', init, (3, 3, x.shape[-1], self.features), jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
        # Not conv2d: without gradients, XLA's is on CPU twice as fast in a quarter of the memory.
        return xla_convolution(x, kernel, 1, 1) + bias


class Block(nn.Module):
    """Batch norm, then twice convolution and ReLU."""

    features: int

    @nn.compact
    def __call__(self, x, train: bool):
        # Statistics of each image alone, as the reference predicts one image at a time.
        x = BatchNorm(groups=len(x), name='bn')(x, train)
        x = nn.relu(Conv(self.features, name='enc1')(x))
        return nn.relu(Conv(self.features, name='enc2')(x))


def shrink(x, factor: int):
    """Mean over factor x factor pixels."""
    return nn.avg_pool(x, (factor, factor), (factor, factor))


def enlarge(x, factor: int):
    """Every pixel repeated factor x factor times."""
    return x.repeat(factor, 1).repeat(factor, 2)


class LungVAE(nn.Module):
    """Images [B, H, W, 1], H and W multiples of 64 -> (logits [B, H, W, 1], mean, log variance).

    The published weights are for H, W = CANVAS only. Latent mean and log variance [B, latent]; the
    log variance is a softplus, so the standard deviation never falls below 1. `train`: batch norm
    by the statistics of each image (biased variance), else by the running ones. `key`: samples the
    latent; None uses its mean.
    """

    hidden: int = HIDDEN
    latent: int = LATENT

    @nn.compact
    def __call__(self, x, train: bool = True, key=None):
        skips = self.u_net_encoder(x, train)
        mean, log_variance = self.encoder(x, train)
        z = mean
        if key is not None:
            z += jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        x = self.latent_map(z, skips[-1].shape)
        for level, factor in ((5, 2), (4, 2), (3, 4), (2, 4)):
            x = jnp.concatenate([x, skips[level - 1]], axis=-1)
            features = self.hidden * 2 ** (level - 2)
            x = Block(features, name=f'dec{level}')(enlarge(x, factor), train)
        x = jnp.concatenate([x, skips[0]], axis=-1)
        x = nn.relu(Conv(self.hidden, name='dec11')(x))
        return Conv(1, name='dec12')(x), mean, log_variance

    def u_net_encoder(self, x, train: bool):
        """Feature maps of its five levels, at 1, 1/4, 1/16, 1/32 and 1/64 of the size."""
        x = nn.relu(Conv(self.hidden, name='uEnc11')(x))
        maps = [nn.relu(Conv(self.hidden, name='uEnc12')(x))]
        for level, factor in ((2, 4), (3, 4), (4, 2), (5, 2)):
            block = Block(self.hidden * 2 ** (level - 1), name=f'uEnc{level}')
            maps.append(block(shrink(maps[-1], factor), train))
        return maps

    def encoder(self, x, train: bool):
        """Latent mean and log variance, each [B, latent]."""
        x = nn.relu(Conv(self.hidden, name='enc11')(x))
        x = nn.relu(Conv(self.hidden, name='enc12')(x))
        for level in (2, 3, 4, 5):
            block = Block(self.hidden * 2 ** (level - 1), name=f'enc{level}')
            x = block(shrink(x, 2), train)
        positions = x.reshape(len(x), -1, x.shape[-1])
        x = nn.relu(nn.Dense(1, name='bot11')(positions))[..., 0]
        mean, raw = jnp.split(nn.Dense(2 * self.latent, name='bot12')(x), 2, axis=-1)
        return mean, nn.softplus(raw)

    def latent_map(self, z, shape: tuple[int, ...]):
        """z [B, latent] -> map of `shape` [B, h, w, 16 hidden], by position and then channels."""
        x = nn.relu(nn.Dense(shape[1] * shape[2], name='bot21')(z))[..., None]
        for number, features in ((22, 1), (23, 4), (24, 16)):
            x = nn.relu(nn.Dense(features * self.hidden, name=f'bot{number}')(x))
        return x.reshape(shape)


def load(path: str | pathlib.Path) -> dict:
    """Variables of the published network from the file that scripts/convert_lungvae.py writes.

    Strict: any missing, surplus or misshapen leaf raises UserError with the whole list.
    """
    kind = 'that `python -m scripts.convert_lungvae` wrote'
    return fit(torch_names.read_tensors(path, kind), path)


def fit(tensors: dict[str, np.ndarray], path) -> dict:
    """Variables of the published network from its tensors; `path` is for the error's text."""
    images = jax.ShapeDtypeStruct((1, *CANVAS, 1), jnp.float32)
    shapes = jax.eval_shape(LungVAE().init, jax.random.key(0), images)
    model = 'the published lungVAE (not its variant without VAE)'
    trees = torch_names.fit(tensors, shapes['params'], shapes['batch_stats'], path, model)
    return dict(zip(('params', 'batch_stats'), trees, strict=True))


def segment(variables: dict, pixels: np.ndarray, batch_norm: str = 'image', key=None) -> np.ndarray:
    """Lung mask bool [H, W] of a radiograph: pixels [H, W] in [0, 1], bright = dense.

    `variables`: of `load`. `batch_norm`: 'image' normalises by the statistics of this image, as the
    published predict.py does, which never leaves training mode; 'running' by the stored ones, with
    other results. The latent is its mean, so that a mask depends on nothing but its image; the
    published code samples it, which a jax.random `key` does here. Meant for whole radiographs at
    native resolution, without padding. All False where no lung is found.
    """
    if batch_norm not in BATCH_NORM:
        raise UserError(f'batch_norm={batch_norm!r} is not known; use one of {BATCH_NORM}.')
    canvas, rectangle = to_canvas(pixels)
    probability = _probability(variables, canvas[None, ..., None], key, batch_norm == 'image')
    return to_mask(np.asarray(probability)[0, ..., 0], rectangle, pixels.shape)


@functools.partial(jax.jit, static_argnames='train')
def _probability(variables, images, key, train: bool):
    network = LungVAE(hidden=variables['params']['enc11']['kernel'].shape[-1])
    # The GPU's and TPU's faster products would change the published masks.
    with jax.default_matmul_precision('highest'):
        (logits, _, _), _ = network.apply(
            variables, images, train=train, key=key, mutable=['batch_stats']
        )
    return nn.sigmoid(logits)
