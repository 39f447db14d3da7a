"""BYOL (Grill et al. 2020): predict a slow teacher's embedding of the other view."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from cxr_jax.models.heads import MLP
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import derived, setting
from cxr_jax.tasks import two_views
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.tasks.two_views import negative_cosine
from cxr_jax.views.augment import Augmentation


def byol_loss(p1, p2, z1, z2):
    """-2 (mean cos(p1, z2) + mean cos(p2, z1)): predictions p and targets z of two views, [B, D].

    Squared distances of unit vectors without their constant 4 (section 3.1); in [-4, 4]. No
    gradient flows into the targets.
    """
    z1, z2 = stop_gradient(z1), stop_gradient(z2)
    return 2 * (negative_cosine(p1, z2) + negative_cosine(p2, z1))


def momentum_at(step, total_steps: int, first: float):
    """Of the teacher: from `first` at step 0 to 1 at total_steps, along half a cosine."""
    return 1 - (1 - first) * (1 + jnp.cos(jnp.pi * step / total_steps)) / 2


@dataclasses.dataclass(frozen=True)
class BYOL(Task):
    """Online network and teacher see both views; the teacher follows after each update."""

    momentum: float = setting(0.99, at_least=0, at_most=1)  # of the teacher, at the first step
    # Width of the hidden layer of projector and predictor, and of what they give.
    hidden: int = setting(4096, at_least=1)
    features: int = setting(256, at_least=1)
    # Of both views; the second one's blur and solarisation are its own. On grey images the
    # reference's change of saturation and hue and its conversion to grey do nothing.
    augment: Augmentation = Augmentation(jitter=0.8, blur=1.0)
    second_blur: float = setting(0.1, at_least=0, at_most=1)
    second_solarize: float = setting(0.2, at_least=0, at_most=1)

    total_steps: int = derived(1)  # of the stage

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'projector', 'predictor')
    # MMSelfSup 0.5.0: byol_resnet50_8xb32-accum16-coslr-200e_in1k.
    recipe: ClassVar[dict] = {
        'batch_size': 4096,
        'epochs': 200,
        'optimizer.name': 'lars',
        'optimizer.lr': 4.8,
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
        # A teacher at 0.99 hardly moves within a few hundred steps.
        'task.momentum': 0.97,
        'task.hidden': 512,
        'task.features': 128,
        'task.augment.crop_scale': (0.2, 1.0),
        'task.augment.rotation': 10.0,
        'task.augment.blur': 0.5,
        'task.augment.blur_sigma': (0.1, 1.0),
        'task.second_solarize': 0.0,
        'optimizer.name': 'sgd',
        'optimizer.lr': 0.1,
        'optimizer.by_epoch': False,
        'optimizer.warmup_epochs': 1.0,
        'optimizer.warmup_ratio': 0.0,
    }

    def resolve(self, facts):
        return dataclasses.replace(self, total_steps=facts.total_steps), {}

    @property
    def heads(self) -> dict:
        # The reference's hidden biases are left out: batch norm takes them away again.
        head = MLP((self.hidden, self.features), axis_name=parallel.AXIS)
        return {'projector': head, 'predictor': head}

    def views(self, key, example):
        second = dataclasses.replace(
            self.augment, blur=self.second_blur, solarize=self.second_solarize
        )
        return two_views.draw(key, example['image'], self.image_size, self.augment, second)

    def init(self, key, encoder, parts):
        params, batch_stats = two_views.init(key, self.heads, encoder.feature_width)
        teacher = {'encoder': parts['encoder']['params'], 'projector': params['projector']}
        return params, batch_stats, {'teacher': teacher}

    def loss(self, encoder, params, state, views, key):
        stats, online, predicted, targets = state.batch_stats, {}, {}, {}
        teacher, projector = state.extra['teacher'], {'projector': self.heads['projector']}
        for view, images in views.items():
            outputs, stats = two_views.embed(encoder, self.heads, params, stats, images)
            online[view], predicted[view] = outputs['projector'], outputs['predictor']
            # The teacher normalises with the statistics of its own pass, as in training. Nothing
            # ever reads running statistics of it, so it has none.
            outputs, _ = two_views.embed(encoder, projector, teacher, state.batch_stats, images)
            targets[view] = outputs['projector']
        loss = byol_loss(*predicted.values(), *targets.values())
        return loss, Aux(stats, state.extra, {}, online)

    def after_update(self, params, extra, step):
        # By the parameters that the optimiser has just left (mmselfsup: BYOLHook.after_train_iter),
        # where MoCo's teacher moves before the forward pass.
        momentum = momentum_at(step, self.total_steps, self.momentum)
        online = {part: params[part] for part in extra['teacher']}
        teacher = jax.tree.map(
            lambda t, p: momentum * t + (1 - momentum) * p, extra['teacher'], online
        )
        return params, {'teacher': teacher}

    def chance_loss(self):
        return 0.0  # of directions that have nothing in common
