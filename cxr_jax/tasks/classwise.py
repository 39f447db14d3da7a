"""Class-wise curriculum: train on the easiest classes first and add the others epoch by epoch.

All images of a class are in or out at once, by how easy the class is: the mean of its unweighted
training loss. In epoch 0 all classes are in and are measured. (Self-paced learning and the order of
a teacher: Kumar et al. 2010; Hacohen and Weinshall 2019. Of samples there, of classes here.)
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from cxr_jax.store.settings import setting
from data_pipelines.errors import UserError

ORDERS = ('none', 'self', 'teacher', 'anti')
FEWEST = 2  # classes: of one alone a network learns to give always the same answer


@dataclasses.dataclass(frozen=True)
class ClassWise:
    """Which classes are trained on, by epoch."""

    # self: the classes that the network itself finds easiest, ranked anew after every epoch;
    # teacher: those of the lowest `teacher_losses`; anti: those of the highest.
    order: str = setting('none', one_of=ORDERS, neutral='none')
    start: float = setting(0.5, above=0, at_most=1)  # share of the classes that are in first
    increment: float = setting(0.25, above=0, at_most=1)  # share that is added, one at least
    every: int = setting(5, at_least=1)  # epochs between two additions
    # Mean training loss of each class under a trained network, in the order of the classes: in the
    # metrics class_loss_<number> of a finished stage that ranked them itself.
    teacher_losses: tuple[float, ...] = ()

    def inactive(self) -> set[str]:
        """Fields that do nothing with the values of the others."""
        if self.order == 'none':
            return {'start', 'increment', 'every', 'teacher_losses'}
        return {'teacher_losses'} if self.order == 'self' else set()

    def __str__(self) -> str:
        return self.order

    @property
    def on(self) -> bool:
        return self.order != 'none'

    def check(self, classes: int) -> None:
        """UserError for what cannot be ordered."""
        if classes <= FEWEST:
            raise UserError(
                f'classwise.order={self.order} has no order to follow with {classes} classes: it '
                f'trains on at least {FEWEST} from the start. Use none.'
            )
        if self.order != 'self' and len(self.teacher_losses) != classes:
            raise UserError(
                f'classwise.teacher_losses has {len(self.teacher_losses)} numbers for {classes} '
                f'classes, and classwise.order={self.order} needs one of each. Take the metrics '
                'class_loss_0, class_loss_1, ... of a finished run with classwise.order=self, or '
                'use self here too.'
            )

    def number(self, epoch: int, classes: int) -> int:
        """How many classes are in during an epoch."""
        if epoch == 0:
            return classes
        # Halves up: Python would round them to even numbers.
        first = max(int(self.start * classes + 0.5), FEWEST)
        more = max(int(self.increment * classes + 0.5), 1)
        return min(first + more * ((epoch - 1) // self.every), classes)

    def told(self, classes: int, epochs: int) -> str:
        """What becomes of the classes of a stage of so many epochs, in one line."""
        begun = f'{self.number(1, classes)} of {classes} classes from the second epoch on'
        later = range(1, classes * self.every + 2)
        whole = next(epoch for epoch in later if self.number(epoch, classes) == classes)
        if whole < epochs:
            return f'{begun}, all of them after {whole} epochs'
        left = classes - self.number(epochs - 1, classes)
        return f'{begun}; still out at the end: {left}, all would be in after {whole} epochs'

    def mask(self, epoch: int, losses: np.ndarray) -> np.ndarray:
        """1 for each class that is in during an epoch, else 0: float32 [K].

        losses [K]: of the epoch before. Of equal ones the first class is the easier.
        """
        ranked = np.asarray(losses if self.order == 'self' else self.teacher_losses, np.float64)
        order = np.argsort(-ranked if self.order == 'anti' else ranked, kind='stable')
        found = np.zeros(len(ranked), np.float32)
        found[order[: self.number(epoch, len(ranked))]] = 1
        return found

    def begin(self, classes: int) -> dict:
        """The entries of `extra` at step 0: all classes are in, and as easy as chance."""
        return {
            'class_mask': jnp.ones(classes),
            'class_loss': jnp.full(classes, np.log(classes)),
            'class_sums': jnp.zeros((2, classes)),
        }

    def next(self, extra: dict, epoch: int) -> dict:
        """`extra` for an epoch, from what the one before has summed up; on the host."""
        total, images = extra['class_sums']
        # A class that was not drawn keeps its loss.
        losses = np.where(images > 0, total / np.maximum(images, 1), extra['class_loss'])
        return extra | {
            'class_mask': self.mask(epoch, losses).astype(extra['class_mask'].dtype),
            'class_loss': losses.astype(extra['class_loss'].dtype),
            'class_sums': np.zeros_like(extra['class_sums']),
        }


def class_sums(losses, labels, classes: int):
    """[2, K] of losses [b] and labels int [b]: sum of each class's losses, and its images."""
    chosen = (labels[:, None] == jnp.arange(classes)).astype(losses.dtype)
    return jnp.stack([(losses[:, None] * chosen).sum(0), chosen.sum(0)])


def masked_mean(losses, counted):
    """Mean of losses [B] over the rows that count (0 or 1, [B]); over all if none does.

    By their number: a loss of exactly 0 counts like any other.
    """
    number = counted.sum()
    return jnp.where(number > 0, (losses * counted).sum() / jnp.maximum(number, 1), losses.mean())
