"""SwAV (Caron et al. 2020): predict one crop's cluster assignment from every other crop."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.lax import Precision, stop_gradient

from cxr_jax.models.heads import MLP, unit_rows
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import Auto, derived, setting
from cxr_jax.tasks import multi_crop
from cxr_jax.tasks.base import Aux, Task, queue_rows
from cxr_jax.views.augment import Augmentation


def sinkhorn(scores, epsilon: float, iterations: int):
    """Balanced soft assignments [B, K] of cosine scores [B, K]; rows sum to 1.

    Sinkhorn-Knopp on exp(scores / epsilon): columns (prototypes) to equal mass, then rows to 1,
    `iterations` times (Caron et al. 2020, section 3.1). Float32 logarithms, so nothing overflows.
    """
    rows, columns = scores.shape
    log_q = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / epsilon
    for _ in range(iterations):
        log_q -= jax.nn.logsumexp(log_q, axis=0, keepdims=True) + math.log(columns)
        log_q -= jax.nn.logsumexp(log_q, axis=1, keepdims=True) + math.log(rows)
    return jnp.exp(log_q + math.log(rows))


def swapped_prediction_loss(scores, assignments, temperature: float):
    """Cross-entropy of each assignment with every other crop's prediction.

    scores [crops, B, K], assignments [2, B, K] of the first two crops -> scalar: mean over the
    batch and the crops - 1 predictions of each assigning crop, then over the two.
    """
    crops = scores.shape[0]
    log_p = jax.nn.log_softmax(scores / temperature, axis=-1)
    total = 0.0
    for i in range(2):
        others = log_p[jnp.asarray([v for v in range(crops) if v != i])]
        total -= (assignments[i] * others).sum(-1).mean()
    return total / 2


@dataclasses.dataclass(frozen=True)
class SwAV(Task):
    """Multi-crop, queue and frozen prototypes as the official code."""

    # auto = half of batch + queue: more could not be filled evenly.
    prototypes: Auto = setting(3000, at_least=2)
    # Rows per assigning crop; 0 = none; auto = multiple of the batch.
    queue_size: Auto = setting(3840, at_least=0)
    # Epoch from which the queue is filled (and used once full).
    queue_start_epoch: float = setting(15.0, at_least=0)
    # Epochs during which the prototypes are not updated.
    freeze_epochs: float = setting(1.0, at_least=0)
    temperature: float = setting(0.1, above=0)  # of the predictions
    epsilon: float = setting(0.05, above=0)  # of the assignments: smaller is sharper
    iterations: int = setting(3, at_least=1)  # of Sinkhorn
    # Width of the projector's hidden layer: auto = the encoder's features.
    hidden: Auto = setting(2048, at_least=1)
    features: int = setting(128, at_least=1)  # width of the embedding
    small_crops: int = setting(6, at_least=0)  # per image, beside the two large ones
    small_size: int = setting(96, at_least=1)  # pixels of a small crop
    # Of every crop; the area is that of a large one.
    augment: Augmentation = Augmentation(
        crop_scale=(0.14, 1.0), jitter=0.8, brightness=0.8, contrast=0.8, blur=0.5
    )
    # Range of a small crop's area, share of the image.
    small_scale: tuple[float, float] = setting((0.05, 0.14), above=0, at_most=1)

    queue_start_step: int = derived(0)

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'projector', 'prototypes')
    # The official script for small batches: scripts/swav_200ep_bs256_pretrain.sh.
    recipe: ClassVar[dict] = {
        'epochs': 200,
        'optimizer.name': 'larc',
        'optimizer.lr': 0.6,
        'optimizer.weight_decay': 1e-6,
        'optimizer.head_weight_decay': 1e-6,
        'optimizer.final_factor': 0.001,
    }
    small: ClassVar[dict] = {
        'epochs': 6,
        'task.small_size': 48,
        'task.small_crops': 2,
        'task.queue_size': '128',
        'task.queue_start_epoch': 2.0,
        'task.prototypes': '32',
        'task.hidden': 'auto',
        'task.freeze_epochs': 0.5,
        'task.augment.rotation': 10.0,
        'task.augment.jitter': 0.0,
        # LARS moves a weight by a thousandth of its size per step: too little for fifty steps.
        'optimizer.name': 'sgd',
        'optimizer.lr': 0.3,
    }

    def inactive(self) -> set[str]:
        """Fields that do nothing with the values of the others."""
        without_queue = () if self.queue_size else ('queue_start_epoch',)
        return {*without_queue, *(() if self.small_crops else ('small_size', 'small_scale'))}

    @property
    def smallest_input(self) -> int:
        return min(self.image_size, self.small_size) if self.small_crops else self.image_size

    def resolve(self, facts):
        batch, notes = facts.batch_size, {}
        rows = self.queue_size
        if rows:
            rows, notes['queue_size'] = queue_rows('queue_size', rows, 3840, facts)
        prototypes, hidden = self.prototypes, self.hidden
        if prototypes == 'auto':
            prototypes = max(min(3000, (batch + rows) // 2), 2)
            notes['prototypes'] = f'half of batch {batch} + queue {rows}'
        if hidden == 'auto':
            hidden = facts.feature_width
            notes['hidden'] = "the encoder's feature width"
        if prototypes > batch + rows:
            notes['prototypes'] = (
                f'more than the {batch + rows} rows of batch and queue: they cannot be used evenly'
            )
        for field in ('queue_start_epoch', 'freeze_epochs'):
            steps = round(getattr(self, field) * facts.steps_per_epoch)
            notes[field] = f'epochs: {steps} steps of {facts.steps_per_epoch} per epoch'
        start = round(self.queue_start_epoch * facts.steps_per_epoch)
        resolved = dataclasses.replace(
            self, prototypes=prototypes, queue_size=rows, hidden=hidden, queue_start_step=start
        )
        return resolved, notes

    def frozen(self, facts):
        return {'prototypes': round(self.freeze_epochs * facts.steps_per_epoch)}

    @property
    def projector(self) -> MLP:
        return MLP((self.hidden, self.features), bias=True, axis_name=parallel.AXIS)

    def views(self, key, example):
        """large [2, S, S, C], small [n, s, s, C]."""
        small = dataclasses.replace(self.augment, crop_scale=self.small_scale)
        kinds = {
            'large': (2, self.image_size, self.augment),
            'small': (self.small_crops, self.small_size, small),
        }
        return multi_crop.draw(key, example['image'], kinds)

    def init(self, key, encoder, parts):
        projector_key, prototype_key = jax.random.split(key)
        features = jnp.zeros((2, encoder.feature_width))
        projector = self.projector.init(projector_key, features)
        bound = self.features**-0.5  # torch.nn.Linear's default
        kernel = jax.random.uniform(
            prototype_key, (self.prototypes, self.features), minval=-bound, maxval=bound
        )
        params = {'projector': projector['params'], 'prototypes': {'rows': unit_rows(kernel)}}
        batch_stats = {'projector': projector['batch_stats'], 'prototypes': {}}
        return params, batch_stats, {'queue': jnp.zeros((2, self.queue_size, self.features))}

    def loss(self, encoder, params, state, views, key):
        embeddings, batch_stats = multi_crop.embed(
            encoder, self.projector, params, state.batch_stats, views
        )
        embeddings, batch_stats = unit_rows(embeddings), batch_stats | {'prototypes': {}}
        prototypes = params['prototypes']['rows']
        scores = jnp.matmul(embeddings, prototypes.T, precision=Precision.HIGHEST)
        everyone = jnp.stack([parallel.rows_of_all(stop_gradient(e)) for e in embeddings[:2]])
        assignments = jnp.stack(
            [
                parallel.own_rows(self._assign(everyone[i], state.extra['queue'][i], prototypes))
                for i in range(2)
            ]
        )
        loss = swapped_prediction_loss(scores, assignments, self.temperature)
        queue = self._enqueue(state.extra['queue'], everyone, state.step)
        named = {f'crop{i}': crop for i, crop in enumerate(embeddings)}
        return loss, Aux(batch_stats, {'queue': queue}, {}, named, {'prototypes': assignments[0]})

    def _assign(self, embeddings, queue, prototypes):
        """Assignments [B, K] of one crop's global batch, balanced together with a full queue."""

        def solve(features):
            scores = jnp.matmul(features, prototypes.T, precision=Precision.HIGHEST)
            scores = stop_gradient(scores)
            return sinkhorn(scores, self.epsilon, self.iterations)[-embeddings.shape[0] :]

        if not self.queue_size:
            return solve(embeddings)
        # Rows are used only once the last one is filled (main_swav.py); they are scored anew with
        # the current prototypes.
        return jax.lax.cond(
            jnp.any(queue[-1] != 0),
            lambda: solve(jnp.concatenate([queue, embeddings])),
            lambda: solve(embeddings),
        )

    def _enqueue(self, queue, embeddings, step):
        """Newest batch to the front, oldest out, from `queue_start_epoch` on; [2, Q, D]."""
        if not self.queue_size:
            return queue
        shifted = jnp.concatenate([embeddings, queue], axis=1)[:, : self.queue_size]
        return jnp.where(step >= self.queue_start_step, shifted, queue)

    def after_update(self, params, extra, step):
        # Official code: unit prototypes before each forward, outside the gradient.
        rows = unit_rows(params['prototypes']['rows'])
        return dict(params, prototypes={'rows': rows}), extra

    def chance_loss(self):
        return math.log(self.prototypes)
