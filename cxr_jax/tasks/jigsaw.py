"""Jigsaw puzzles (Noroozi and Favaro 2016): in which order do the image's nine tiles lie?"""

import dataclasses
import functools
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cxr_jax.models.heads import PuzzleHead
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import setting
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.patches import CELLS, PATCHES, PatchGrid

# One grey level of eight bits: what varies less is rounding, not to be blown up to a picture.
FLATTEST = 1 / 255


@functools.cache
def permutation_set(count: int, tiles: int = PATCHES, seed: int = 0) -> np.ndarray:
    """`count` orders of the tiles that are unlike each other: int8 [count, tiles], read-only.

    The first one is drawn; each further one has the greatest mean Hamming distance to those before
    it, of equal ones the first in lexicographic order (Noroozi and Favaro 2016, algorithm 1).
    """
    every = itertools.chain.from_iterable(itertools.permutations(range(tiles)))
    columns = np.fromiter(every, np.int8).reshape(-1, tiles).T.copy()
    # Summed up as the set grows: distances to the whole set would be computed anew for each one.
    distance = np.zeros(columns.shape[1], np.int32)
    # NumPy keeps this generator's numbers from version to version; labels of a trained head are
    # numbers of this set.
    found = [np.random.RandomState(seed).randint(len(distance))]
    for _ in range(count - 1):
        for column in columns:
            distance += column != column[found[-1]]
        distance[found[-1]] = np.iinfo(np.int32).min // 2
        found.append(int(distance.argmax()))
    chosen = columns[:, found].T.copy()
    chosen.setflags(write=False)
    return chosen


def standardised(tiles):
    """Each tile [p, p, C] of [..., p, p, C] with mean 0 and standard deviation 1.

    Otherwise the brightness at the borders, and its fall over the image, tell what lies where
    (Noroozi and Favaro 2016, on shortcuts); radiographs are full of such gradients.
    """
    centred = tiles - tiles.mean((-3, -2, -1), keepdims=True)
    spread = jnp.sqrt(jnp.square(centred).mean((-3, -2, -1), keepdims=True))
    return centred / jnp.maximum(spread, FLATTEST)


@dataclasses.dataclass(frozen=True)
class Jigsaw(Task):
    """Which permutation of a fixed set was drawn? One of every image per step.

    Trunk and head as VISSL trains it with ResNet-50, tiles standardised as in the paper.
    `image_size` is that of the crop which is cut into 3x3 cells.
    """

    image_size: int = setting(255, at_least=CELLS)  # pixels of the crop that holds the grid
    short_side: float = setting(256 / 255, at_least=1)  # the image is resized to this times that
    # A tile is smaller than its cell by this share: room to move.
    jitter: float = setting(21 / 85, at_least=0, below=1)
    flip: float = setting(0.5, at_least=0, at_most=1)  # probability of a flip of the image
    # Orders to tell apart, of all 9!; more than VISSL's largest set would take hours to choose.
    permutations: int = setting(1000, at_least=2, at_most=10_000)
    hidden: int = setting(1000, at_least=1)  # width of what is made of each tile

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'head')
    judged_by: ClassVar[str] = 'accuracy'
    # VISSL: config/pretrain/jigsaw/jigsaw_8gpu_resnet.
    recipe: ClassVar[dict] = {
        'batch_size': 256,
        'epochs': 105,
        'optimizer.lr': 0.1,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (30 / 105, 60 / 105, 90 / 105, 100 / 105),
        'optimizer.warmup_epochs': 5.0,
        'optimizer.warmup_ratio': 0.25,
    }
    small: ClassVar[dict] = {
        'batch_size': 32,
        'epochs': 10,
        'optimizer.lr': 0.02,
        'optimizer.schedule': 'cosine',
        'optimizer.warmup_epochs': 1.0,
        'optimizer.warmup_ratio': 0.0,
        'task.image_size': 72,
        'task.permutations': 200,
        'task.hidden': 128,
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
        """tiles [9, p, p, C], standardised, place t showing cell order[t]; label = its number."""
        grid_key, order_key = jax.random.split(key)
        label = jax.random.randint(order_key, (), 0, self.permutations)
        order = jnp.asarray(permutation_set(self.permutations))[label]
        tiles = standardised(self.grid(grid_key, example['image']))
        return {'tiles': tiles[order], 'label': label}

    @property
    def head(self) -> PuzzleHead:
        return PuzzleHead(self.permutations, self.hidden, axis_name=parallel.AXIS)

    def init(self, key, encoder, parts):
        variables = self.head.init(key, jnp.zeros((2, PATCHES, encoder.feature_width)))
        return {'head': variables['params']}, {'head': variables['batch_stats']}, {}

    def loss(self, encoder, params, state, views, key):
        tiles, labels = views['tiles'], views['label']
        # The encoder normalises whole images: undone here, so that it sees the tiles as they are.
        images = tiles.reshape(-1, *tiles.shape[2:]) * encoder.contract.std + encoder.contract.mean
        features = encoder(params['encoder'], state.batch_stats['encoder'], images)
        places = features.pooled.reshape(-1, PATCHES, features.pooled.shape[-1])
        variables = {'params': params['head'], 'batch_stats': state.batch_stats['head']}
        logits, updated = self.head.apply(variables, places, mutable=['batch_stats'])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(-1) == labels).mean()
        batch_stats = {'encoder': features.batch_stats, 'head': updated['batch_stats']}
        # By cell, so that a view shows the same part of every image.
        shown_at = jnp.asarray(np.argsort(permutation_set(self.permutations), axis=1))[labels]
        cells = jnp.take_along_axis(places, shown_at[..., None], axis=1)
        embeddings = {f'cell{i}': cells[:, i] for i in range(PATCHES)}
        return loss, Aux(batch_stats, {}, {'accuracy': accuracy}, embeddings)

    def chance_loss(self):
        return math.log(self.permutations)
