"""Relative location (Doersch et al. 2015), as MMSelfSup 0.5.0 trains it."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import optax

from cxr_jax.models.dropout import kept_units
from cxr_jax.models.heads import PairHead
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import setting
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.patches import CELLS, PATCHES, PatchGrid

CENTRE = PATCHES // 2
LABELS = PATCHES - 1


@dataclasses.dataclass(frozen=True)
class RelativeLocation(Task):
    """Where does a patch lie, seen from the centre patch? All eight pairs of every image.

    `image_size` is that of the crop which is cut into 3x3 cells. The reference crops without
    resizing to another scale than 255 of 292 pixels; the flip is the reference study's.
    """

    image_size: int = setting(255, at_least=CELLS)  # pixels of the crop that holds the grid
    short_side: float = setting(292 / 255, at_least=1)  # the image is resized to this times that
    # A patch is smaller than its cell by this share: room to move.
    jitter: float = setting(21 / 85, at_least=0, below=1)
    flip: float = setting(0.0, at_least=0, at_most=1)  # probability of a flip of the image
    dropout: float = setting(0.5, at_least=0, below=1)  # in the pair head

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'head')
    judged_by: ClassVar[str] = 'accuracy'
    # MMSelfSup 0.5.0: relative-loc_resnet50_8xb64-steplr-70e_in1k.
    recipe: ClassVar[dict] = {
        'batch_size': 512,
        'epochs': 70,
        'optimizer.lr': 0.2,
        'optimizer.head_weight_decay': 5e-4,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (30 / 70, 50 / 70),
        'optimizer.warmup_epochs': 5.0,
        'optimizer.warmup_ratio': 0.1,
    }
    small: ClassVar[dict] = {
        'batch_size': 32,
        'epochs': 4,
        'task.image_size': 72,
        'task.flip': 0.5,
        'optimizer.lr': 0.1,
        'optimizer.schedule': 'cosine',
        'optimizer.warmup_epochs': 1.0,
        'optimizer.warmup_ratio': 0.0,
    }

    @property
    def grid(self) -> PatchGrid:
        return PatchGrid(self.image_size, self.short_side, self.jitter, self.flip)

    @property
    def smallest_input(self) -> int:
        return self.grid.patch  # 64 of the reference's 85 pixels

    def resolve(self, facts):
        return self, {'image_size': self.grid.check()}

    def views(self, key, example):
        """patches [9, p, p, C] in row-major order of the grid."""
        return {'patches': self.grid(key, example['image'])}

    @property
    def head(self) -> PairHead:
        return PairHead(LABELS, axis_name=parallel.AXIS)

    def init(self, key, encoder, parts):
        pairs = jnp.zeros((2, 2 * encoder.feature_width))
        variables = self.head.init(key, pairs, 1.0)
        return {'head': variables['params']}, {'head': variables['batch_stats']}, {}

    def loss(self, encoder, params, state, views, key):
        patches = views['patches']
        rows = patches.shape[0]
        others = jnp.delete(patches, CENTRE, axis=1).reshape(-1, *patches.shape[2:])
        centres = jnp.repeat(patches[:, CENTRE], LABELS, axis=0)
        # Two passes with the centre repeated, as the reference: batch statistics of each half.
        other = encoder(params['encoder'], state.batch_stats['encoder'], others)
        centre = encoder(params['encoder'], other.batch_stats, centres)
        pairs = jnp.concatenate([other.pooled, centre.pooled], axis=-1)
        variables = {'params': params['head'], 'batch_stats': state.batch_stats['head']}
        kept = kept_units(key, rows * LABELS, pairs.shape[-1], self.dropout)
        logits, updated = self.head.apply(variables, pairs, kept, mutable=['batch_stats'])
        labels = jnp.tile(jnp.arange(LABELS), rows)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(-1) == labels).mean()
        batch_stats = {'encoder': centre.batch_stats, 'head': updated['batch_stats']}
        embeddings = {'centre': centre.pooled[::LABELS]}
        embeddings |= {f'neighbour{i}': other.pooled[i::LABELS] for i in range(LABELS)}
        return loss, Aux(batch_stats, {}, {'accuracy': accuracy}, embeddings)

    def chance_loss(self):
        return math.log(LABELS)
