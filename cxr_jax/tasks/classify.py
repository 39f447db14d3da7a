"""The labelled task at the end of every curriculum: one linear layer on the pooled features."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import optax

from cxr_jax.models.heads import Classifier, global_average_pool
from cxr_jax.store.settings import Auto
from cxr_jax.tasks.base import Task
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Classify(Task):
    """Softmax cross-entropy; backbone and head train together (reference study, full fine-tune)."""

    classes: Auto = 'auto'  # number of classes: auto = the data set's
    augment: Augmentation = Augmentation()

    judged_by: ClassVar[str] = 'balanced_accuracy'

    def resolve(self, facts):
        known = len(facts.classes)
        if not known:
            raise UserError(
                'The data set has no labels, so the classifier cannot be trained; prepare it with '
                'class folders or a csv with a label column.'
            )
        if self.classes not in ('auto', known):
            raise UserError(
                f'classes={self.classes}, but the data set has {known} ({", ".join(facts.classes)})'
                '; use auto.'
            )
        return dataclasses.replace(self, classes=known), {'classes': ', '.join(facts.classes)}

    def views(self, key, example):
        image = self.augment(key, example['image'], self.image_size)
        return {'image': image, 'label': example['label']}

    def init(self, key, backbone, params, batch_stats):
        features = jnp.zeros((1, backbone.feature_width))
        return Classifier(self.classes).init(key, features)['params'], {}, {}

    def logits(self, params, feature_map):
        """[B, H, W, C] -> [B, classes]."""
        head = Classifier(self.classes)
        return head.apply({'params': params['head']}, global_average_pool(feature_map))

    def kernel(self, params):
        """Weights [D, classes] of the linear layer, for activation maps."""
        return params['head']['linear']['kernel']

    def loss(self, backbone, params, state, views, key):
        feature_map, stats = backbone(
            params['backbone'], state.batch_stats['backbone'], views['image']
        )
        logits = self.logits(params, feature_map)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, views['label']).mean()
        accuracy = (logits.argmax(-1) == views['label']).mean()
        return loss, ({'backbone': stats, 'head': {}}, {}, {'accuracy': accuracy})

    def chance_loss(self):
        return math.log(self.classes)
