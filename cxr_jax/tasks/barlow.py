"""Barlow Twins (Zbontar et al. 2021): make the views' cross-correlation the identity."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from cxr_jax.models.heads import MLP
from cxr_jax.models.norm import EPSILON
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import setting
from cxr_jax.tasks import two_views
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError


def barlow_twins_loss(z1, z2, lambd: float):
    """sum_i (1 - C_ii)² + lambd · sum_{i != j} C_ij² of the correlation C of z1, z2 [N, D].

    Nothing is divided by the width: the loss of uncorrelated views is D (section 2.1).
    """
    on, off = _deviations(cross_correlation(z1, z2))
    return on + lambd * off


def cross_correlation(z1, z2, axis_name: str | None = None):
    """[D, D] of z1, z2 [N, D]: mean over N of products, each column standardised over the rows.

    Biased variance, epsilon 1e-5, at least float32. `axis_name`: mesh axis that holds more rows.
    """

    def mean(x):
        return lax.pmean(x, axis_name) if axis_name else x

    def standardised(z):
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        centred = z - mean(z.mean(0))
        return centred * lax.rsqrt(mean(jnp.square(centred).mean(0)) + EPSILON)

    z1, z2 = standardised(z1), standardised(z2)
    return mean(jnp.matmul(z1.T, z2, precision=lax.Precision.HIGHEST) / len(z1))


def _deviations(correlation):
    """Sums of squares of [D, D] minus the identity: on the diagonal, and off it."""
    squares = jnp.square(correlation - jnp.eye(len(correlation), dtype=correlation.dtype))
    # Not as a difference of sums: the small part of the two would be lost in the large one.
    off = squares * (1 - jnp.eye(len(correlation), dtype=correlation.dtype))
    return jnp.trace(squares), off.sum()


@dataclasses.dataclass(frozen=True)
class BarlowTwins(Task):
    """Two views that differ as BYOL's, one projector, no teacher and no negatives."""

    # Widths of the projector's layers: bias-free, batch norm and ReLU between them, none behind.
    projector: tuple[int, ...] = setting((8192, 8192, 8192), at_least=1)
    lambd: float = setting(0.0051, at_least=0)  # weight of the redundancy between dimensions
    # Of both views; the second one's blur and solarisation are its own. On grey images the official
    # code's change of saturation and hue and its conversion to grey do nothing.
    augment: Augmentation = Augmentation(jitter=0.8, blur=1.0)
    second_blur: float = setting(0.1, at_least=0, at_most=1)
    second_solarize: float = setting(0.2, at_least=0, at_most=1)

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'projector')
    # The official code's defaults: main.py.
    recipe: ClassVar[dict] = {
        'batch_size': 2048,
        'epochs': 1000,
        'optimizer.name': 'lars',
        'optimizer.lr': 1.6,
        'optimizer.rate_1d': 0.024,
        'optimizer.trust_1d': False,
        'optimizer.decay_1d': False,
        'optimizer.weight_decay': 1e-6,
        'optimizer.head_weight_decay': 1e-6,
        'optimizer.warmup_epochs': 10.0,
        'optimizer.final_factor': 0.001,
    }

    # LARS moves a weight by a thousandth of its size per step: too little for a few hundred steps.
    small: ClassVar[dict] = {
        'epochs': 20,
        'task.projector': (256, 256),
        'task.augment.crop_scale': (0.2, 1.0),
        'task.augment.rotation': 10.0,
        'task.augment.blur': 0.5,
        'task.augment.blur_sigma': (0.1, 1.0),
        'task.second_solarize': 0.0,
        'optimizer.name': 'sgd',
        'optimizer.lr': 0.1,
        'optimizer.rate_1d': 1.0,
        'optimizer.warmup_epochs': 1.0,
    }

    def resolve(self, facts):
        if not self.projector:
            raise UserError('projector=() has no layer; give one width or more, as (512,).')
        return self, {}

    @property
    def heads(self) -> dict:
        return {'projector': MLP(self.projector, axis_name=parallel.AXIS)}

    def views(self, key, example):
        second = dataclasses.replace(
            self.augment, blur=self.second_blur, solarize=self.second_solarize
        )
        return two_views.draw(key, example['image'], self.image_size, self.augment, second)

    def init(self, key, encoder, parts):
        return *two_views.init(key, self.heads, encoder.feature_width), {}

    def loss(self, encoder, params, state, views, key):
        stats, projected = state.batch_stats, {}
        for view, images in views.items():
            outputs, stats = two_views.embed(encoder, self.heads, params, stats, images)
            projected[view] = outputs['projector']
        on, off = _deviations(cross_correlation(*projected.values(), parallel.AXIS))
        metrics = {'invariance': on, 'redundancy': off}
        return on + self.lambd * off, Aux(stats, {}, metrics, projected)

    def chance_loss(self):
        return float(self.projector[-1])
