"""SimCLR (Chen et al. 2020): tell the other view of an image from all other images' views."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.lax import Precision

from cxr_jax.models.heads import MLP, unit_rows
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import derived, setting
from cxr_jax.tasks import two_views
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.augment import Augmentation


def nt_xent(z1, z2, temperature: float):
    """Normalised temperature-scaled cross-entropy (section 2.1), mean over all 2N rows.

    z1, z2 [N, D]: row i of one belongs to row i of the other; lengths do not matter. Each row is
    told from the 2N - 1 others, itself left out; equal similarities give ln(2N - 1).
    """
    z1, z2 = unit_rows(z1), unit_rows(z2)
    rows = jnp.concatenate([z1, z2])
    logits = jnp.matmul(rows, rows.T, precision=Precision.HIGHEST) / temperature
    logits = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, logits)
    positive = (z1 * z2).sum(-1) / temperature
    return jax.nn.logsumexp(logits, axis=-1).mean() - positive.mean()


@dataclasses.dataclass(frozen=True)
class SimCLR(Task):
    """All other rows of the global batch are negatives, so its size is a hyper-parameter."""

    temperature: float = setting(0.1, above=0)  # of the softmax over similarities
    hidden: int = setting(2048, at_least=1)  # width of the projector's first layer
    features: int = setting(128, at_least=1)  # width of the embedding
    # Of both views: the paper's of strength 1; crops of 0.08 to 1.
    augment: Augmentation = Augmentation(jitter=0.8, brightness=0.8, contrast=0.8, blur=0.5)

    images: int = derived(0)  # of a batch, over all devices

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'projector')
    # MMSelfSup 0.5.0: simclr_resnet50_8xb32-coslr-200e_in1k.
    recipe: ClassVar[dict] = {
        'epochs': 200,
        'optimizer.name': 'lars',
        'optimizer.lr': 0.3,
        'optimizer.trust_1d': False,
        'optimizer.decay_1d': False,
        'optimizer.weight_decay': 1e-6,
        'optimizer.head_weight_decay': 1e-6,
        'optimizer.by_epoch': True,
        'optimizer.warmup_epochs': 10.0,
        'optimizer.warmup_ratio': 1e-4,
    }

    # LARS moves a weight by a thousandth of its size per step: too little for a few hundred steps.
    small: ClassVar[dict] = {
        'epochs': 20,
        'task.hidden': 256,
        'task.temperature': 0.2,
        'task.augment.crop_scale': (0.2, 1.0),
        'task.augment.rotation': 10.0,
        'task.augment.brightness': 0.4,
        'task.augment.contrast': 0.4,
        'task.augment.blur_sigma': (0.1, 1.0),
        'optimizer.name': 'sgd',
        'optimizer.lr': 0.3,
        'optimizer.by_epoch': False,
        'optimizer.warmup_epochs': 1.0,
        'optimizer.warmup_ratio': 0.0,
    }

    def resolve(self, facts):
        return dataclasses.replace(self, images=facts.batch_size), {}

    @property
    def heads(self) -> dict:
        widths = (self.hidden, self.features)
        return {'projector': MLP(widths, last_norm=True, axis_name=parallel.AXIS)}

    def views(self, key, example):
        return two_views.draw(key, example['image'], self.image_size, self.augment)

    def init(self, key, encoder, parts):
        return *two_views.init(key, self.heads, encoder.feature_width), {}

    def loss(self, encoder, params, state, views, key):
        # Both views in one pass, so that they share their batch statistics, as in the reference.
        images = jnp.concatenate(list(views.values()))
        outputs, stats = two_views.embed(encoder, self.heads, params, state.batch_stats, images)
        projected = dict(zip(views, jnp.split(outputs['projector'], 2), strict=True))
        # Gradients flow through the gathering back to each device's own rows.
        everyone = [parallel.rows_of_all(rows) for rows in projected.values()]
        return nt_xent(*everyone, self.temperature), Aux(stats, {}, {}, projected)

    def chance_loss(self):
        return math.log(2 * self.images - 1)
