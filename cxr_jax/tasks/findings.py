"""Several findings per image, each present, absent or not known: which of them are there?"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cxr_jax.runtime import parallel
from cxr_jax.store.settings import derived, setting
from cxr_jax.tasks.base import Readout
from cxr_jax.tasks.classify import LEAST, WEIGHTS, image_weights


def sigmoid_losses(logits, present, weights=(), focal: float = 0.0):
    """Loss of each entry [b, K] of logits [b, K], given whether the finding is there, bool [b, K].

    -w (1 - p)^focal ln p, where p is the probability of what is true (Lin et al. 2017, equation 5).
    weights [K, 2] of images without and with each finding, () for none.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, present.astype(logits.dtype))
    if focal:
        losses *= jnp.maximum(-jnp.expm1(-losses), LEAST) ** focal
    if weights:
        without, having = jnp.asarray(weights, losses.dtype).T
        losses *= jnp.where(present, having, without)
    return losses


@dataclasses.dataclass(frozen=True)
class Findings(Readout):
    """Sigmoid cross-entropy of each finding, over the labels that are known.

    The mean is over the known labels of the whole batch, so that an image counts by what is said
    about it (as U-Ignore of Irvin et al. 2019, arXiv:1901.07031, does with uncertain labels).
    """

    # Of the images with and without a finding; balanced: both weigh the same altogether.
    class_weights: str = setting('none', one_of=WEIGHTS, neutral='none')
    focal: float = setting(0.0, at_least=0, neutral=0.0)  # gamma of the focal loss; 0 = none

    weights: tuple[tuple[float, float], ...] = derived(())  # without and with each finding

    exclusive: ClassVar[bool] = False
    # The classifier's, so that the two can be compared.
    recipe: ClassVar[dict] = {
        'epochs': 90,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (1 / 3, 2 / 3),
    }

    def resolve(self, facts):
        task, notes = super().resolve(facts)
        if self.class_weights != 'none':
            task = dataclasses.replace(
                task, weights=image_weights(self.class_weights, facts.counts)
            )
            having = ', '.join(f'{weight:.3g}' for _, weight in task.weights)
            notes['class_weights'] = f'of images with each finding: {having}'
        return task, notes

    def objective(self, logits, labels, extra):
        """labels int [b, K]: 1, 0, or -1 where it is not known."""
        known, present = labels >= 0, labels > 0
        losses = sigmoid_losses(logits, present, self.weights, self.focal)
        right = ((logits > 0) == present).astype(logits.dtype)
        metrics = {'accuracy': mean_of_known(right, known)}
        return mean_of_known(losses, known), metrics, extra

    def scores(self, logits):
        return jax.nn.sigmoid(logits)

    def chance_loss(self):
        return 0.5**self.focal * math.log(2)


def mean_of_known(values, known):
    """This device's share of the mean of `values` [b, K] where `known` bool [b, K]; 0 if nowhere.

    The mean of the shares over the devices is the mean over the known entries of all devices,
    however these are spread.
    """
    total = lax.psum(known.sum(), parallel.AXIS)
    own = jnp.where(known, values, 0).sum()
    return own * lax.axis_size(parallel.AXIS) / jnp.maximum(total, 1)
