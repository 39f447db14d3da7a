"""Several findings per image, each present, absent or not known: which of them are there?"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cxr_jax.runtime import parallel
from cxr_jax.tasks.base import Readout


@dataclasses.dataclass(frozen=True)
class Findings(Readout):
    """Sigmoid cross-entropy of each finding, over the labels that are known.

    The mean is over the known labels of the whole batch, so that an image counts by what is said
    about it (as U-Ignore of Irvin et al. 2019, arXiv:1901.07031, does with uncertain labels).
    """

    exclusive: ClassVar[bool] = False
    # The classifier's, so that the two can be compared.
    recipe: ClassVar[dict] = {
        'epochs': 90,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (1 / 3, 2 / 3),
    }

    def objective(self, logits, labels):
        """labels int [b, K]: 1, 0, or -1 where it is not known."""
        known = labels >= 0
        present = labels > 0
        errors = optax.sigmoid_binary_cross_entropy(logits, present.astype(logits.dtype))
        right = ((logits > 0) == present).astype(logits.dtype)
        return mean_of_known(errors, known), {'accuracy': mean_of_known(right, known)}

    def scores(self, logits):
        return jax.nn.sigmoid(logits)

    def chance_loss(self):
        return math.log(2)


def mean_of_known(values, known):
    """This device's share of the mean of `values` [b, K] where `known` bool [b, K]; 0 if nowhere.

    The mean of the shares over the devices is the mean over the known entries of all devices,
    however these are spread.
    """
    total = lax.psum(known.sum(), parallel.AXIS)
    own = jnp.where(known, values, 0).sum()
    return own * lax.axis_size(parallel.AXIS) / jnp.maximum(total, 1)
