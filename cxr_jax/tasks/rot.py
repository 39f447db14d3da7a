"""Rotation prediction (Gidaris et al. 2018): which of four quarter turns was the image given?"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import optax

from cxr_jax.models.heads import LinearHead
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.augment import Augmentation
from cxr_jax.views.geometry import four_rotations

TURNS = 4


@dataclasses.dataclass(frozen=True)
class Rotation(Task):
    """All four rotations of one augmented crop, so a batch of B images trains 4B samples."""

    augment: Augmentation = Augmentation()  # of the crop, before it is turned

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'head')
    judged_by: ClassVar[str] = 'accuracy'
    linear_head: ClassVar[bool] = True
    # MMSelfSup 0.5.0: rotation-pred_resnet50_8xb16-steplr-70e_in1k.
    recipe: ClassVar[dict] = {
        'batch_size': 128,
        'epochs': 70,
        'optimizer.lr': 0.2,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (30 / 70, 50 / 70),
        'optimizer.warmup_epochs': 5.0,
        'optimizer.warmup_ratio': 0.1,
    }
    small: ClassVar[dict] = {
        'batch_size': 32,
        'epochs': 4,
        'task.augment.crop_scale': (0.4, 1.0),
        'optimizer.lr': 0.1,
        'optimizer.schedule': 'cosine',
        'optimizer.warmup_epochs': 1.0,
        'optimizer.warmup_ratio': 0.0,
    }

    def views(self, key, example):
        """Crop -> image [4, S, S, C], label [4] = number of quarter turns, counter-clockwise."""
        crop = self.augment(key, example['image'], self.image_size)
        return {'image': four_rotations(crop), 'label': jnp.arange(TURNS)}

    def init(self, key, encoder, parts):
        features = jnp.zeros((1, encoder.feature_width))
        return {'head': LinearHead(TURNS).init(key, features)['params']}, {'head': {}}, {}

    def loss(self, encoder, params, state, views, key):
        images = views['image'].reshape(-1, *views['image'].shape[2:])
        labels = views['label'].reshape(-1)
        features = encoder(params['encoder'], state.batch_stats['encoder'], images)
        logits = LinearHead(TURNS).apply({'params': params['head']}, features.pooled)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(-1) == labels).mean()
        batch_stats = {'encoder': features.batch_stats, 'head': {}}
        embeddings = {f'turn{i}': features.pooled[i::TURNS] for i in range(TURNS)}
        return loss, Aux(batch_stats, {}, {'accuracy': accuracy}, embeddings)

    def chance_loss(self):
        return math.log(TURNS)
