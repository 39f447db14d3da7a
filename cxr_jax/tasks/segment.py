"""Lung segmentation: which pixels are lung? Trained on radiographs with lung masks.

In no registry: its encoder is a whole U-Net (models/unet.py), not the curriculum's.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from cxr_jax.store.settings import setting
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views import geometry, intensity
from cxr_jax.views.occlusion import block_out, diffuse_noise


@dataclasses.dataclass(frozen=True)
class Segment(Task):
    """Binary cross-entropy plus soft Dice; opacities are painted over the lungs.

    Opacified lungs look like soft tissue, so a network that has seen clear lungs only leaves them
    out. lungVAE's remedy (Selvan et al. 2020, arXiv:2005.10052): bright blocks and diffuse noise
    over the lungs while the mask stays whole.
    """

    needs: ClassVar[tuple[str, ...]] = ('lung_mask',)
    # Chosen on phantoms; neither paper trains this network.
    recipe: ClassVar[dict] = {
        'batch_size': 8,
        'epochs': 30,
        'optimizer.lr': 0.3,
        'optimizer.nesterov': True,
        'optimizer.schedule': 'cosine',
        'optimizer.warmup_epochs': 1.0,
    }

    image_size: int = setting(128, at_least=16)  # pixels of the network's input
    # Range of the crop's area, share of the image.
    crop_scale: tuple[float, float] = setting((0.6, 1.0), above=0, at_most=1)
    # Probability of the whole, upright image: prediction sees no image blurred by resampling.
    still: float = setting(0.5, at_least=0, at_most=1)
    flip: float = setting(0.5, at_least=0, at_most=1)  # probability of a mirror image
    rotation: float = setting(10.0, at_least=0, at_most=180)  # degrees: angle uniform in ± this
    brightness: float = setting(0.3, at_least=0, at_most=1)  # factor uniform in 1 ± this
    contrast: float = setting(0.3, at_least=0, at_most=1)  # factor uniform in 1 ± this
    blocks: int = setting(2, at_least=0)  # rectangles painted over the lungs
    block_probability: float = setting(0.5, at_least=0, at_most=1)  # of each rectangle
    # Range of their sides, share of the image's.
    block_sides: tuple[float, float] = setting((0.05, 0.3), at_least=0, at_most=1)
    block_value: float = setting(0.85, at_least=0, at_most=1)  # their brightness (lungVAE)
    noise: float = setting(0.5, at_least=0, at_most=1)  # probability of noise inside the lungs
    # What the noise adds (lungVAE: 0.6 u - 0.1).
    noise_range: tuple[float, float] = setting((-0.1, 0.5), at_least=-1, at_most=1)

    def views(self, key, example):
        """One augmented view: image [S, S, 1] standardised, mask [S, S, 1] 0 or 1, alike moved."""
        geometry_key, intensity_key, block_key, noise_key = jax.random.split(key, 4)
        image = self._moved(geometry_key, example['image'])
        mask = self._moved(geometry_key, (example['lung_mask'] > 0).astype(float))
        mask = (mask > 0.5).astype(float)
        image = intensity.random_brightness_contrast(
            intensity_key, image, self.brightness, self.contrast
        )
        low, high = self.noise_range
        image = diffuse_noise(noise_key, image, mask, self.noise, low, high)
        for one in jax.random.split(block_key, self.blocks) if self.blocks else ():
            image = block_out(
                one, image, mask, self.block_probability, self.block_sides, self.block_value
            )
        return {'image': standardised(image), 'mask': mask}

    def _moved(self, key, image):
        """Rotated, cropped and mirrored; the same key moves every image in the same way."""
        rotate_key, crop_key, flip_key, still_key = jax.random.split(key, 4)
        limit = jnp.deg2rad(self.rotation)
        angle = jax.random.uniform(rotate_key, minval=-limit, maxval=limit)
        moved = geometry.random_resized_crop(
            crop_key, geometry.rotate(image, angle), self.image_size, self.crop_scale, 0.0
        )
        whole = geometry.resize(image, self.image_size)
        view = jnp.where(jax.random.bernoulli(still_key, self.still), whole, moved)
        return jnp.where(jax.random.bernoulli(flip_key, self.flip), view[:, ::-1], view)

    def init(self, key, encoder, parts):
        return {}, {}, {}

    def loss(self, encoder, params, state, views, key):
        features = encoder(params['encoder'], state.batch_stats['encoder'], views['image'])
        logits, mask = features.maps['logits'], views['mask']
        entropy = optax.sigmoid_binary_cross_entropy(logits, mask).mean()
        overlap = soft_dice(jax.nn.sigmoid(logits), mask).mean()
        hard = soft_dice((logits > 0).astype(float), mask).mean()
        metrics = {'cross_entropy': entropy, 'dice': hard}
        return entropy + 1 - overlap, Aux({'encoder': features.batch_stats}, {}, metrics)

    def chance_loss(self):
        # At probability 1/2 the soft Dice depends on the lungs' area: here, a quarter of the image.
        return math.log(2) + 1 - 2 * 0.5 * 0.25 / (0.5 + 0.25)


def soft_dice(probabilities, mask, epsilon: float = 1.0):
    """2 sum(p m) / (sum p + sum m) of each image [B, S, S, 1] -> [B].

    `epsilon` above and below the line: an empty prediction of an empty mask is right.
    """
    axes = tuple(range(1, mask.ndim))
    both, total = (probabilities * mask).sum(axes), (probabilities + mask).sum(axes)
    return (2 * both + epsilon) / (total + epsilon)


def standardised(image):
    """Mean 0 and standard deviation 1 over the image itself: exposure differs between sites."""
    centred = image - image.mean()
    return centred * jax.lax.rsqrt(jnp.square(centred).mean() + 1e-6)
