"""LeJEPA (Balestriero and LeCun 2025, arXiv:2511.08544): predict views, keep embeddings Gaussian.

No teacher, no stop-gradient, no predictor: what keeps the embeddings from collapsing is SIGReg, a
test of every random projection of them against a standard normal distribution.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cxr_jax.models.heads import MLP
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import derived, setting
from cxr_jax.tasks import multi_crop, two_views
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError

# The paper's integral (algorithm 1): trapezoids over 17 points from -5 to 5. The integrand is even
# and 0 at 0, so the 8 points above 0 give the same number with twice their weight.
POINTS = np.linspace(-5.0, 5.0, 17)[9:]
NORMAL = np.exp(-(POINTS**2) / 2)  # characteristic function of N(0, 1), and the integral's weight
WEIGHTS = 2 * np.append(np.ones(7), 0.5) * (POINTS[1] - POINTS[0]) * NORMAL


def epps_pulley(samples, axis_name: str | None = None):
    """Distance of samples [..., N, M] from N(0, 1), of every column: [..., M].

    N times the integral over t of |mean of exp(i t x) - exp(-t²/2)|² exp(-t²/2) (section 4.2).
    Of normal samples its mean is that of (1 - exp(-t²)) exp(-t²/2), 1.06, whatever N is.
    `axis_name`: mesh axis that holds more rows.
    """
    samples = samples.astype(jnp.promote_types(samples.dtype, jnp.float32))
    points, normal, weights = (jnp.asarray(x, samples.dtype) for x in (POINTS, NORMAL, WEIGHTS))
    angles = samples[..., None] * points
    real, imaginary = jnp.cos(angles).mean(-3), jnp.sin(angles).mean(-3)
    rows = samples.shape[-2]
    # The statistic is no mean over rows: the characteristic function is, so it is averaged over the
    # devices before anything is squared.
    if axis_name:
        real, imaginary = lax.pmean((real, imaginary), axis_name)
        rows *= lax.axis_size(axis_name)
    distances = jnp.square(real - normal) + jnp.square(imaginary)
    return rows * (distances * weights).sum(-1)


def sigreg(embeddings, directions, axis_name: str | None = None):
    """Mean Epps-Pulley statistic of embeddings [..., N, D] along directions [D, M] of length 1.

    Leading axes are views: each is tested alone, and N is the number of images.
    """
    slices = jnp.matmul(embeddings, directions, precision=lax.Precision.HIGHEST)
    return epps_pulley(slices, axis_name).mean()


def prediction_loss(embeddings, centres: int):
    """Mean squared difference of views [V, N, D] from the mean of the first `centres` of them.

    Mean over the dimensions too, as in algorithm 2 and the official code; the text has their sum.
    """
    return jnp.square(embeddings - embeddings[:centres].mean(0)).mean()


def lejepa_loss(embeddings, directions, centres: int, lambd: float, axis_name: str | None = None):
    """(1 - lambd) prediction_loss + lambd sigreg of views [V, N, D] (algorithm 2)."""
    return _terms(embeddings, directions, centres, lambd, axis_name)[0]


def _terms(embeddings, directions, centres, lambd, axis_name):
    # The metrics are these two, so that the weight can be judged by them.
    prediction = prediction_loss(embeddings, centres)
    gaussian = sigreg(embeddings, directions, axis_name)
    return (1 - lambd) * prediction + lambd * gaussian, prediction, gaussian


@dataclasses.dataclass(frozen=True)
class LeJEPA(Task):
    """Every view predicts the mean of the large ones; each view's embeddings are kept Gaussian."""

    lambd: float = setting(0.05, at_least=0, at_most=1)  # weight of SIGReg, the rest prediction's
    slices: int = setting(1024, at_least=1)  # random directions, drawn anew in every step
    # Widths of the projector's layers, batch norm and ReLU between them.
    projector: tuple[int, ...] = setting((2048, 2048, 128), at_least=1)
    large_crops: int = setting(2, at_least=1)  # per image: the views that are predicted
    small_crops: int = setting(6, at_least=0)  # per image, which predict as well
    small_size: int = setting(96, at_least=1)  # pixels of a small crop
    # Of every crop; the area is that of a large one. On grey images the official code's change of
    # saturation and hue and its conversion to grey do nothing.
    augment: Augmentation = Augmentation(crop_scale=(0.3, 1.0), jitter=0.8, blur=0.5, solarize=0.2)
    # Range of a small crop's area, share of the image.
    small_scale: tuple[float, float] = setting((0.05, 0.3), above=0, at_most=1)

    images: int = derived(0)  # of a batch, over all devices

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'projector')
    # The official code for ResNets (github.com/rbalestr-lab/lejepa, README.md and MINIMAL.md).
    recipe: ClassVar[dict] = {
        'epochs': 100,
        'optimizer.name': 'adamw',
        'optimizer.lr': 5e-4,
        'optimizer.weight_decay': 5e-4,
        'optimizer.head_weight_decay': 5e-4,
        'optimizer.warmup_epochs': 1.0,
        'optimizer.warmup_ratio': 0.01,
        'optimizer.final_factor': 0.001,
    }

    small: ClassVar[dict] = {
        'epochs': 20,
        'task.slices': 256,
        'task.projector': (256, 256, 16),
        'task.small_crops': 2,
        'task.small_size': 48,
        'optimizer.lr': 2e-3,
    }

    def inactive(self) -> set[str]:
        """Fields that do nothing with the values of the others."""
        return set() if self.small_crops else {'small_size', 'small_scale'}

    @property
    def smallest_input(self) -> int:
        return min(self.image_size, self.small_size) if self.small_crops else self.image_size

    def resolve(self, facts):
        if not self.projector:
            raise UserError('projector=() has no layer; give one width or more, as (512, 64).')
        if self.large_crops + self.small_crops < 2:
            raise UserError(
                'large_crops=1 and small_crops=0 leave one view, which has nothing to predict; '
                'raise one of them.'
            )
        return dataclasses.replace(self, images=facts.batch_size), {}

    @property
    def heads(self) -> dict:
        return {'projector': MLP(self.projector, bias=True, axis_name=parallel.AXIS)}

    def views(self, key, example):
        """large [n, S, S, C], small [m, s, s, C]."""
        small = dataclasses.replace(self.augment, crop_scale=self.small_scale)
        kinds = {
            'large': (self.large_crops, self.image_size, self.augment),
            'small': (self.small_crops, self.small_size, small),
        }
        return multi_crop.draw(key, example['image'], kinds)

    def init(self, key, encoder, parts):
        return *two_views.init(key, self.heads, encoder.feature_width), {}

    def loss(self, encoder, params, state, views, key):
        projector = self.heads['projector']
        embeddings, batch_stats = multi_crop.embed(
            encoder, projector, params, state.batch_stats, views
        )
        # The key is that of the step, so all devices test the same directions.
        loss, prediction, gaussian = _terms(
            embeddings, self.directions(key), self.large_crops, self.lambd, parallel.AXIS
        )
        metrics = {'prediction': prediction, 'sigreg': gaussian}
        named = {f'crop{i}': crop for i, crop in enumerate(embeddings)}
        return loss, Aux(batch_stats, {}, metrics, named)

    def directions(self, key):
        """[D, slices] of length 1, uniform on the sphere."""
        drawn = jax.random.normal(key, (self.projector[-1], self.slices))
        return drawn / jnp.linalg.norm(drawn, axis=0)

    def chance_loss(self):
        # The best that one point for all images can do: 0, where everything is predicted.
        return float(self.lambd * self.images * (np.square(1 - NORMAL) * WEIGHTS).sum())
