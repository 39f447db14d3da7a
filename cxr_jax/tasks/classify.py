"""The labelled task at the end of most curricula: which one of the classes is it?"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cxr_jax.runtime import parallel
from cxr_jax.store.settings import derived, setting
from cxr_jax.tasks.base import Readout
from cxr_jax.tasks.classwise import ClassWise, class_sums, masked_mean

WEIGHTS = ('none', 'balanced', 'effective')
EFFECTIVE_BETA = 0.9999  # Cui et al. 2019, section 5
LEAST = 1e-12  # under the root of a focal loss: its derivative is finite there


def image_weights(kind: str, counts) -> tuple:
    """Weight of an image of each class, from the images of each: ints [..., K] -> nested floats.

    `balanced`: as 1 / count; `effective`: as 1 / (1 - beta^count), the effective number of samples
    (Cui et al. 2019, arXiv:1901.05555, equation 2). 1 on average over the images, so the loss
    and the learning rate keep their size.
    """
    counts = np.maximum(np.asarray(counts, np.float64), 1)
    weights = 1 / (counts if kind == 'balanced' else -np.expm1(counts * np.log(EFFECTIVE_BETA)))
    weights *= counts.sum(-1, keepdims=True) / (weights * counts).sum(-1, keepdims=True)
    return _tuples(weights.tolist())


def _tuples(values):
    return tuple(map(_tuples, values)) if isinstance(values, list) else values


def softmax_losses(logits, labels, weights=(), focal: float = 0.0, smoothing: float = 0.0):
    """Loss of each row [b] of logits [b, K] and labels int [b].

    -w_y sum_k q_k (1 - p_k)^focal ln p_k, where p is the softmax and q the label with the share
    `smoothing` spread over all classes (Szegedy et al. 2016, section 7); `focal`: gamma of Lin et
    al. 2017, equation 4. weights [K] of the classes, () for none.
    """
    if focal or smoothing:
        log_p = jax.nn.log_softmax(logits)
        target = jax.nn.one_hot(labels, logits.shape[-1], dtype=log_p.dtype)
        target = (1 - smoothing) * target + smoothing / logits.shape[-1]
        if focal:
            target *= jnp.maximum(-jnp.expm1(log_p), LEAST) ** focal
        losses = -(target * log_p).sum(-1)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses * jnp.asarray(weights, losses.dtype)[labels] if weights else losses


@dataclasses.dataclass(frozen=True)
class Classify(Readout):
    """Softmax cross-entropy; encoder and head train together (reference study, full fine-tune)."""

    # Of the images of a class; balanced: all classes weigh the same altogether.
    class_weights: str = setting('none', one_of=WEIGHTS, neutral='none')
    focal: float = setting(0.0, at_least=0, neutral=0.0)  # gamma of the focal loss; 0 = none
    smoothing: float = setting(0.0, at_least=0, below=1, neutral=0.0)  # of the labels
    classwise: ClassWise = ClassWise()

    weights: tuple[float, ...] = derived(())  # by class

    exclusive: ClassVar[bool] = True
    # PyTorch's ImageNet example: the rate drops tenfold after 30 and 60 of 90 epochs.
    recipe: ClassVar[dict] = {
        'epochs': 90,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (1 / 3, 2 / 3),
    }

    def resolve(self, facts):
        task, notes = super().resolve(facts)
        if self.class_weights != 'none':
            weights = image_weights(self.class_weights, [having for _, having in facts.counts])
            task = dataclasses.replace(task, weights=weights)
            notes['class_weights'] = ', '.join(f'{weight:.3g}' for weight in weights)
        if self.classwise.on:
            self.classwise.check(task.outputs)
            epochs = facts.total_steps // facts.steps_per_epoch
            notes['classwise'] = self.classwise.told(task.outputs, epochs)
        return task, notes

    def init(self, key, encoder, parts):
        params, batch_stats, extra = super().init(key, encoder, parts)
        if self.classwise.on:
            extra = self.classwise.begin(self.outputs)
        return params, batch_stats, extra

    @property
    def pauses(self):
        return self.classwise.on

    def between(self, state, epoch, features_of, labels=None):
        # Epoch 0 has all classes in: nothing is measured before.
        return state.replace(extra=self.classwise.next(state.extra, epoch)) if epoch else state

    def objective(self, logits, labels, extra):
        """labels int [b], each the number of a class."""
        metrics = {'accuracy': (logits.argmax(-1) == labels).mean()}
        losses = softmax_losses(logits, labels, self.weights, self.focal, self.smoothing)
        if not self.classwise.on:
            return losses.mean(), metrics, extra
        # Of all devices' rows: the classes that are in may lie on some of them alone.
        counted = parallel.rows_of_all(extra['class_mask'][labels])
        loss = masked_mean(parallel.rows_of_all(losses), counted)
        plain = lax.stop_gradient(softmax_losses(logits, labels))
        sums = lax.psum(class_sums(plain, labels, self.outputs), parallel.AXIS)
        metrics['classes'] = extra['class_mask'].sum()
        metrics |= {f'class_loss_{k}': extra['class_loss'][k] for k in range(self.outputs)}
        return loss, metrics, extra | {'class_sums': extra['class_sums'] + sums}

    def scores(self, logits):
        return jax.nn.softmax(logits)

    def chance_loss(self):
        return (1 - 1 / self.outputs) ** self.focal * math.log(self.outputs)
