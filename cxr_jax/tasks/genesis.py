"""Models Genesis (Zhou et al. 2021, arXiv:2004.07882) in 2-D: restore an image that was distorted.

The authors' code (github.com/MrGiovanni/ModelsGenesis, keras) is 3-D. Order, rates and sizes of the
distortions are its, with the depth axis left out and the number of shuffled windows brought to the
image's size (views/distortion.py).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cxr_jax.models.decoder import NORMS, Decoder
from cxr_jax.runtime.parallel import AXIS
from cxr_jax.store.settings import setting
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views import distortion
from cxr_jax.views.augment import Augmentation


def bezier_curve(control_points, x, increasing):
    """Monotone map of values x [...] in [0, 1] to [0, 1] (section 3.2.1).

    The cubic Bezier curve from (0, 0) to (1, 1) whose inner control_points [2, 2] are points
    (abscissa, ordinate) in the unit square, as a function of its abscissa. If not `increasing`, the
    ordinate is that of the curve run through from its other end: dark and bright change places.
    """
    x = jnp.clip(x, 0.0, 1.0)
    first, second = jnp.asarray(control_points, x.dtype)
    # In powers of the parameter t. The abscissa never falls with t, so bisection finds it: one
    # binary digit of t a step, where a table of the curve would cost more and be less exact.
    linear, square, cube = 3 * first, 3 * second - 6 * first, 1 + 3 * first - 3 * second

    def coordinate(axis, t):
        return ((cube[axis] * t + square[axis]) * t + linear[axis]) * t

    t, digit = jnp.zeros_like(x), 0.5
    for _ in range(jnp.finfo(x.dtype).nmant + 2):
        t = jnp.where(coordinate(0, t + digit) <= x, t + digit, t)
        digit /= 2
    return coordinate(1, jnp.where(increasing, t, 1 - t))


def restoration_loss(restored, target):
    """Mean squared error of images [B, S, S, C], over pixels and images."""
    return jnp.square(restored - target).mean()


@dataclasses.dataclass(frozen=True)
class Genesis(Task):
    """A U-Net whose way down is the encoder sees the distorted image and draws the clean one."""

    image_size: int = setting(224, at_least=16)  # pixels of the network's input
    flip: float = setting(0.4, at_least=0, at_most=1)  # probability of each mirroring, of both
    shuffle: float = setting(0.5, at_least=0, at_most=1)  # probability of local pixel shuffling
    nonlinear: float = setting(0.9, at_least=0, at_most=1)  # probability of an intensity map
    paint: float = setting(0.9, at_least=0, at_most=1)  # probability of in- or out-painting
    inpaint: float = setting(0.2, at_least=0, at_most=1)  # share of it that is in-painting
    # Channels of the decoder at half of the input's size, doubled by each halving.
    width: int = setting(32, at_least=1)
    norm: str = setting('batch', one_of=NORMS)  # of the decoder
    # Of the clean image, before anything is distorted.
    augment: Augmentation = Augmentation(crop_scale=(0.2, 1.0), flip=0.0)

    takes: ClassVar[tuple[str, ...]] = ('encoder', 'decoder')
    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'decoder')
    # keras/config.py trains on 6 cubes, which few numbers of devices can share, until the
    # validation loss stands still; its PyTorch twin halves the rate every 40 epochs.
    recipe: ClassVar[dict] = {
        'batch_size': 8,
        'epochs': 200,
        'optimizer.lr': 1.0,
        'optimizer.weight_decay': 0.0,
        'optimizer.head_weight_decay': 0.0,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (0.2, 0.4, 0.6, 0.8),
        'optimizer.step_factor': 0.5,
    }

    # A quarter of the reference's decoder, and a rate that falls to 0 within the hundreds of steps.
    small: ClassVar[dict] = {
        'batch_size': 32,
        'epochs': 20,
        'task.width': 8,
        'task.augment.crop_scale': (0.5, 1.0),
        'optimizer.lr': 1.0,
        'optimizer.schedule': 'cosine',
        'optimizer.warmup_epochs': 1.0,
    }

    def inactive(self) -> set[str]:
        """Fields that do nothing with the values of the others."""
        return set() if self.paint else {'inpaint'}

    def resolve(self, facts):
        count, largest = distortion.window_count(self.image_size)
        return self, {'shuffle': f'{count} windows with sides up to {largest} pixels'}

    def views(self, key, example):
        """clean [S, S, C]: crop, flipped; image [S, S, C]: the same, distorted. In [0, 1]."""
        crop_key, flip_key, distort_key = jax.random.split(key, 3)
        clean = self.augment(crop_key, example['image'], self.image_size)
        clean = distortion.random_flips(flip_key, clean, self.flip)
        return {'clean': clean, 'image': self._distorted(distort_key, clean)}

    def _distorted(self, key, image):
        coins, shuffle_key, points_key, order_key, paint_key = jax.random.split(key, 5)
        shuffle, nonlinear, paint = jax.random.uniform(coins, (3,))
        # Each is computed for every image and kept by its coin: shapes and work are static.
        shuffled = distortion.shuffle_locally(shuffle_key, image)
        image = jnp.where(shuffle < self.shuffle, shuffled, image)
        points = jax.random.uniform(points_key, (2, 2))
        mapped = bezier_curve(points, image, jax.random.bernoulli(order_key))
        image = jnp.where(nonlinear < self.nonlinear, mapped, image)
        painted = distortion.paint(paint_key, image, self.inpaint)
        return jnp.where(paint < self.paint, painted, image)

    def _decoder(self, encoder) -> Decoder:
        return Decoder(
            self.width, self.norm, encoder.network.dtype, AXIS, encoder.contract.channels
        )

    def init(self, key, encoder, parts):
        # Only the sizes of the maps matter: nothing is computed for them.
        images = jnp.zeros((1, self.image_size, self.image_size, encoder.contract.channels))
        of_encoder = parts['encoder']['params'], parts['encoder']['batch_stats']
        shapes = jax.eval_shape(lambda: encoder(*of_encoder, images, train=False).maps)
        maps = [jnp.zeros(each.shape, each.dtype) for each in shapes.values()]
        decoder = self._decoder(encoder).init(key, maps, self.image_size)
        return {'decoder': decoder['params']}, {'decoder': decoder.get('batch_stats', {})}, {}

    def loss(self, encoder, params, state, views, key):
        features = encoder(params['encoder'], state.batch_stats['encoder'], views['image'])
        variables = {'params': params['decoder'], 'batch_stats': state.batch_stats['decoder']}
        restored, updated = self._decoder(encoder).apply(
            variables, list(features.maps.values()), self.image_size, mutable=['batch_stats']
        )
        target = views['clean']
        loss = restoration_loss(restored, target)
        # The loss of drawing every image in its own mean grey.
        spread = target.var((1, 2, 3)).mean()
        decoder_stats = updated.get('batch_stats', {})
        batch_stats = {'encoder': features.batch_stats, 'decoder': decoder_stats}
        return loss, Aux(batch_stats, {}, {'variance': spread}, {'image': features.pooled})

    def picture(self, encoder, params, batch_stats, views):
        images = views['image']
        features = encoder(params['encoder'], batch_stats['encoder'], images, train=False)
        variables = {'params': params['decoder'], 'batch_stats': batch_stats['decoder']}
        maps = list(features.maps.values())
        restored = self._decoder(encoder).apply(variables, maps, self.image_size, train=False)
        return {'clean': views['clean'], 'distorted': images, 'restored': restored}
