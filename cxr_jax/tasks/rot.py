"""Rotation prediction (Gidaris et al. 2018): which of four quarter turns was the image given?"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import optax

from cxr_jax.models.heads import Classifier, global_average_pool
from cxr_jax.tasks.base import Task
from cxr_jax.views.augment import Augmentation
from cxr_jax.views.geometry import four_rotations


@dataclasses.dataclass(frozen=True)
class Rotation(Task):
    """All four rotations of one augmented crop, so a batch of B images trains 4B samples."""

    augment: Augmentation = Augmentation()

    judged_by: ClassVar[str] = 'accuracy'

    def views(self, key, example):
        """Crop -> image [4, S, S, 1], label [4] = number of quarter turns, counter-clockwise."""
        crop = self.augment(key, example['image'], self.image_size)
        return {'image': four_rotations(crop), 'label': jnp.arange(4)}

    def init(self, key, backbone, params, batch_stats):
        features = jnp.zeros((1, backbone.feature_width))
        return Classifier(4).init(key, features)['params'], {}, {}

    def loss(self, backbone, params, state, views, key):
        images = views['image'].reshape(-1, *views['image'].shape[2:])
        labels = views['label'].reshape(-1)
        feature_map, stats = backbone(params['backbone'], state.batch_stats['backbone'], images)
        logits = Classifier(4).apply({'params': params['head']}, global_average_pool(feature_map))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(-1) == labels).mean()
        return loss, ({'backbone': stats, 'head': {}}, {}, {'accuracy': accuracy})

    def chance_loss(self):
        return math.log(4)
