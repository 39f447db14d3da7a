"""A linear probe: what one linear layer reads from the features of a frozen encoder."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from cxr_jax.tasks.classify import softmax_losses
from cxr_jax.tasks.findings import mean_of_known, sigmoid_losses
from cxr_jax.tasks.frozen import FrozenReadout, standardised


@dataclasses.dataclass(frozen=True)
class Probe(FrozenReadout):
    """One linear layer on standardised features, for exclusive classes or for findings.

    Trained by the loop on augmented images, as linear evaluation is (MMSelfSup 0.5.0,
    configs/benchmarks/classification/imagenet: 100 epochs, no decay): the views keep a few hundred
    images from being learnt by heart.
    """

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'statistics', 'head')
    recipe: ClassVar[dict] = {
        'epochs': 100,
        'optimizer.lr': 1.0,
        'optimizer.weight_decay': 0.0,
        'optimizer.head_weight_decay': 0.0,
    }
    small: ClassVar[dict] = {'optimizer.lr': 0.3}  # steps are many for a few hundred images

    def init(self, key, encoder, parts):
        params, batch_stats, extra = super().init(key, encoder, parts)
        head = self.head.init(key, jnp.zeros((1, encoder.feature_width)))['params']
        return params | {'head': head}, batch_stats | {'head': {}}, extra

    def logits(self, params, features):
        return self.head.apply({'params': params['head']}, standardised(params, features.pooled))

    def evidence(self, params):
        return params['head']['linear']['kernel'] * params['statistics']['scale'][:, None]

    def objective(self, logits, labels, extra):
        """labels int [b] of classes, or int [b, K]: 1, 0, or -1 where it is not known."""
        if self.exclusive:
            metrics = {'accuracy': (logits.argmax(-1) == labels).mean()}
            return softmax_losses(logits, labels).mean(), metrics, extra
        known, present = labels >= 0, labels > 0
        right = ((logits > 0) == present).astype(logits.dtype)
        metrics = {'accuracy': mean_of_known(right, known)}
        return mean_of_known(sigmoid_losses(logits, present), known), metrics, extra

    def scores(self, logits):
        return jax.nn.softmax(logits) if self.exclusive else jax.nn.sigmoid(logits)

    def chance_loss(self):
        return math.log(self.outputs if self.exclusive else 2)
