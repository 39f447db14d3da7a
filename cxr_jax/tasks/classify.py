"""The labelled task at the end of most curricula: which one of the classes is it?"""

import dataclasses
import math
from typing import ClassVar

import jax
import optax

from cxr_jax.tasks.base import Readout


@dataclasses.dataclass(frozen=True)
class Classify(Readout):
    """Softmax cross-entropy; encoder and head train together (reference study, full fine-tune)."""

    exclusive: ClassVar[bool] = True
    # PyTorch's ImageNet example: the rate drops tenfold after 30 and 60 of 90 epochs.
    recipe: ClassVar[dict] = {
        'epochs': 90,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (1 / 3, 2 / 3),
    }

    def objective(self, logits, labels):
        """labels int [b], each the number of a class."""
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, {'accuracy': (logits.argmax(-1) == labels).mean()}

    def scores(self, logits):
        return jax.nn.softmax(logits)

    def chance_loss(self):
        return math.log(self.outputs)
