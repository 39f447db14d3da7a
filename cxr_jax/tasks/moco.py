"""MoCo v2 (Chen et al. 2020; He et al. 2020): contrast two views through a queue of keys."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.lax import Precision, stop_gradient

from cxr_jax.models.heads import MLP, unit_rows
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import Auto, setting
from cxr_jax.tasks.base import Aux, Task, queue_rows
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError


def info_nce(query, key, queue, temperature: float):
    """Contrastive loss, mean over the batch. query, key [B, D], queue [K, D]: unit rows.

    Softmax over [positive | K negatives] / temperature with the positive as target; uniform output
    gives ln(1 + K).
    """
    loss, _ = _contrast(query, key, queue, temperature)
    return loss


def _contrast(query, key, queue, temperature):
    positive = (query * key).sum(-1, keepdims=True)
    negative = jnp.matmul(query, queue.T, precision=Precision.HIGHEST)
    logits = jnp.concatenate([positive, negative], axis=-1) / temperature
    loss = (jax.nn.logsumexp(logits, axis=-1) - logits[:, 0]).mean()
    accuracy = (logits[:, 0] > logits[:, 1:].max(-1)).mean()
    return loss, accuracy


@dataclasses.dataclass(frozen=True)
class MoCo(Task):
    """View 1 is the query, view 2 the key (one direction, as the official code)."""

    queue_size: Auto = setting(65536, at_least=1)  # keys; auto = multiple of the batch in the data
    momentum: float = setting(0.999, at_least=0, at_most=1)  # of the key encoder
    temperature: float = setting(0.2, above=0)  # of the softmax over similarities
    # Width of the projector's hidden layer: auto = the encoder's features.
    hidden: Auto = setting('auto', at_least=1)
    features: int = setting(128, at_least=1)  # width of the embedding
    # Virtual batch-norm groups of the key encoder, over permuted keys: shuffling BN that does not
    # depend on the number of devices (8 GPUs in the paper). 1 = none, as the reference study's one.
    key_groups: int = setting(8, at_least=1)
    # Of both views.
    augment: Augmentation = Augmentation(crop_scale=(0.2, 1.0), jitter=0.8, blur=0.5)

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'projector')
    # MMSelfSup 0.5.0: mocov2_resnet50_8xb32-coslr-200e_in1k.
    recipe: ClassVar[dict] = {'epochs': 200, 'optimizer.lr': 0.03, 'optimizer.by_epoch': True}
    small: ClassVar[dict] = {
        'epochs': 6,
        'task.queue_size': 'auto',
        'task.momentum': 0.99,
        'task.temperature': 0.1,
        'task.augment.rotation': 10.0,
        'optimizer.lr': 0.1,
        'optimizer.warmup_epochs': 1.0,
    }

    def resolve(self, facts):
        rows, reason = queue_rows('queue_size', self.queue_size, 65536, facts)
        groups, devices, batch = self.key_groups, facts.devices, facts.batch_size
        if groups > 1 and (batch % groups or batch // groups < 2 or groups % devices):
            raise UserError(
                f'key_groups={groups} must divide the batch size {batch} into groups of 2 or more '
                f'and be a multiple of the {devices} devices; choose another, or 1 for one global '
                'batch norm.'
            )
        notes = {'queue_size': reason}
        hidden = self.hidden
        if hidden == 'auto':
            hidden = facts.feature_width
            notes['hidden'] = "the encoder's feature width"
        return dataclasses.replace(self, queue_size=rows, hidden=hidden), notes

    @property
    def projector(self) -> MLP:
        return MLP((self.hidden, self.features), bias=True, norm=False)

    def views(self, key, example):
        query_key, key_key = jax.random.split(key)
        return {
            'query': self.augment(query_key, example['image'], self.image_size),
            'key': self.augment(key_key, example['image'], self.image_size),
        }

    def init(self, key, encoder, parts):
        projector_key, queue_key = jax.random.split(key)
        features = jnp.zeros((1, encoder.feature_width))
        projector = self.projector.init(projector_key, features)['params']
        queue = unit_rows(jax.random.normal(queue_key, (self.queue_size, self.features)))
        extra = {
            'teacher': {'encoder': parts['encoder']['params'], 'projector': projector},
            'teacher_stats': parts['encoder']['batch_stats'],
            'queue': queue,
            'pointer': jnp.zeros((), jnp.int32),
        }
        return {'projector': projector}, {'projector': {}}, extra

    def loss(self, encoder, params, state, views, key):
        extra = state.extra
        features = encoder(params['encoder'], state.batch_stats['encoder'], views['query'])
        query = unit_rows(self.projector.apply({'params': params['projector']}, features.pooled))
        # The teacher moves before the keys are computed (moco/builder.py, forward).
        teacher = jax.tree.map(
            lambda t, p: self.momentum * t + (1 - self.momentum) * stop_gradient(p),
            extra['teacher'],
            params,
        )
        keys, teacher_stats = self._keys(encoder, teacher, extra, views['key'], key)
        own = parallel.own_rows(keys)
        loss, accuracy = _contrast(query, own, extra['queue'], self.temperature)
        # The batch's keys enter the queue only after the logits (moco/builder.py, forward).
        queue = jax.lax.dynamic_update_slice_in_dim(extra['queue'], keys, extra['pointer'], 0)
        extra = {
            'teacher': teacher,
            'teacher_stats': teacher_stats,
            'queue': queue,
            'pointer': (extra['pointer'] + keys.shape[0]) % self.queue_size,
        }
        batch_stats = {'encoder': features.batch_stats, 'projector': {}}
        return loss, Aux(batch_stats, extra, {'accuracy': accuracy}, {'query': query, 'key': own})

    def _keys(self, encoder, teacher, extra, images, key):
        """Keys of the whole global batch [B, D], in the order of the queries, replicated."""
        order = None
        if self.key_groups > 1:
            # Every device's images, permuted alike everywhere, so that no batch-norm group holds
            # the same images as the queries' do (He et al. 2020, section 3.3).
            images = parallel.rows_of_all(images)
            order = jax.random.permutation(key, images.shape[0])
            images = parallel.own_rows(images[order])
        features = encoder(
            teacher['encoder'], extra['teacher_stats'], images, groups=self.key_groups
        )
        keys = unit_rows(self.projector.apply({'params': teacher['projector']}, features.pooled))
        keys = parallel.rows_of_all(stop_gradient(keys))
        if order is not None:
            keys = jnp.zeros_like(keys).at[order].set(keys)
        return keys, stop_gradient(features.batch_stats)

    def chance_loss(self):
        return math.log(1 + self.queue_size)
