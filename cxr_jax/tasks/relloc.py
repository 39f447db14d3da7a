"""Relative location (Doersch et al. 2015), as MMSelfSup 0.5.0 trains it."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from cxr_jax.models.heads import PairHead
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import setting
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.geometry import resize
from data_pipelines.errors import UserError

CELLS = 3  # on a side: a centre and its eight neighbours
CENTRE = CELLS * CELLS // 2
LABELS = CELLS * CELLS - 1


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
        'epochs': 3,
        'task.image_size': 72,
        'task.flip': 0.5,
        'optimizer.lr': 0.02,
        'optimizer.schedule': 'cosine',
        'optimizer.warmup_epochs': 1.0,
        'optimizer.warmup_ratio': 0.0,
    }

    @property
    def cell(self) -> int:
        """Pixels of a grid cell."""
        return self.image_size // CELLS

    @property
    def patch(self) -> int:
        """Pixels of a patch, the network's input: 64 of the reference's 85."""
        return self.cell - round(self.cell * self.jitter)

    @property
    def smallest_input(self) -> int:
        return self.patch

    def resolve(self, facts):
        if self.patch < 1:
            raise UserError(
                f'image_size={self.image_size} and jitter={self.jitter} leave patches of no pixel; '
                'raise image_size or lower jitter.'
            )
        return self, {'image_size': f'cells of {self.cell}, patches of {self.patch} pixels'}

    def views(self, key, example):
        """patches [9, p, p, 1] in row-major order of the grid."""
        flip_key, crop_key, patch_key = jax.random.split(key, 3)
        image = resize(example['image'], round(self.image_size * self.short_side))
        image = jnp.where(jax.random.bernoulli(flip_key, self.flip), image[:, ::-1], image)
        crop = _random_window(crop_key, image, self.image_size)
        cells = self.cell * jnp.stack(jnp.divmod(jnp.arange(CELLS * CELLS), CELLS), axis=1)
        moves = jax.random.randint(patch_key, (CELLS * CELLS, 2), 0, self.cell - self.patch + 1)
        shape = (self.patch, self.patch, 1)
        patches = jax.vmap(lambda at: jax.lax.dynamic_slice(crop, (at[0], at[1], 0), shape))
        return {'patches': patches(cells + moves)}

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
        kept = self._kept_units(key, rows * LABELS, pairs.shape[-1])
        logits, updated = self.head.apply(variables, pairs, kept, mutable=['batch_stats'])
        labels = jnp.tile(jnp.arange(LABELS), rows)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(-1) == labels).mean()
        batch_stats = {'encoder': centre.batch_stats, 'head': updated['batch_stats']}
        embeddings = {'centre': centre.pooled[::LABELS]}
        embeddings |= {f'neighbour{i}': other.pooled[i::LABELS] for i in range(LABELS)}
        return loss, Aux(batch_stats, {}, {'accuracy': accuracy}, embeddings)

    def _kept_units(self, key, pairs: int, width: int):
        """Dropout's factors [pairs, width], 0 or 1 / (1 - dropout), of each pair's global number:
        any number of devices draws the same."""
        numbers = jax.lax.axis_index(parallel.AXIS) * pairs + jnp.arange(pairs)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        share = 1 - self.dropout
        kept = jax.vmap(lambda k: jax.random.bernoulli(k, share, (width,)))(keys)
        return kept / share

    def chance_loss(self):
        return math.log(LABELS)


def _random_window(key, image, size: int):
    """Random [size, size, 1] window of a square image."""
    corner = jax.random.randint(key, (2,), 0, image.shape[0] - size + 1)
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, 1))
