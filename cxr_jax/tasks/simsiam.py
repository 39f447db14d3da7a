"""SimSiam (Chen and He 2021): predict the other view's embedding; no teacher, no negatives."""

import dataclasses
from typing import ClassVar

from jax.lax import stop_gradient

from cxr_jax.models.heads import MLP
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import setting
from cxr_jax.tasks import two_views
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.tasks.two_views import negative_cosine
from cxr_jax.views.augment import Augmentation


def simsiam_loss(p1, p2, z1, z2):
    """-(mean cos(p1, z2) + mean cos(p2, z1)) / 2 (section 3): predictions p, embeddings z [B, D].

    No gradient flows into the embeddings, without which everything becomes one vector.
    """
    z1, z2 = stop_gradient(z1), stop_gradient(z2)
    return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2


@dataclasses.dataclass(frozen=True)
class SimSiam(Task):
    """Three layers, the last batch norm without scale and shift, then a predictor with a waist."""

    features: int = setting(2048, at_least=1)  # width of all three layers of the projector
    waist: int = setting(512, at_least=1)  # width of the predictor's hidden layer
    # Of both views, as MoCo v2's.
    augment: Augmentation = Augmentation(crop_scale=(0.2, 1.0), jitter=0.8, blur=0.5)

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'projector', 'predictor')
    # The predictor keeps up with the embeddings if its rate stays (section 4.2).
    rules: ClassVar[dict[str, dict]] = {'predictor': {'scheduled': False}}
    # The official code's: main_simsiam.py.
    recipe: ClassVar[dict] = {'epochs': 100, 'optimizer.lr': 0.05, 'optimizer.by_epoch': True}

    small: ClassVar[dict] = {
        'epochs': 20,
        'task.features': 256,
        'task.waist': 64,
        'task.augment.rotation': 10.0,
        'task.augment.blur_sigma': (0.1, 1.0),
        'optimizer.by_epoch': False,
        'optimizer.warmup_epochs': 1.0,
    }

    @property
    def heads(self) -> dict:
        axis = parallel.AXIS
        widths = (self.features,) * 3
        return {
            'projector': MLP(widths, last_norm=True, affine=False, axis_name=axis),
            'predictor': MLP((self.waist, self.features), bias=True, axis_name=axis),
        }

    def views(self, key, example):
        return two_views.draw(key, example['image'], self.image_size, self.augment)

    def init(self, key, encoder, parts):
        return *two_views.init(key, self.heads, encoder.feature_width), {}

    def loss(self, encoder, params, state, views, key):
        stats, projected, predicted = state.batch_stats, {}, {}
        for view, images in views.items():
            outputs, stats = two_views.embed(encoder, self.heads, params, stats, images)
            projected[view], predicted[view] = outputs['projector'], outputs['predictor']
        loss = simsiam_loss(*predicted.values(), *projected.values())
        return loss, Aux(stats, {}, {}, projected)

    def chance_loss(self):
        return 0.0  # of directions that have nothing in common
