"""Near copies of held-out images among those trained on, told before a run starts.

Looks are read from beside the sets, never made here, so that 10,000 images take about a second.
Identical images need not be looked for: Corpus.without leaves them out of training.
"""

from dataclasses import dataclass

import numpy as np

from data_pipelines.auditing.looks import SIDE
from data_pipelines.auditing.near import ALL, QUICK, near_pairs
from data_pipelines.auditing.reasons import CONSTANT
from data_pipelines.auditing.stored import stored_looks
from data_pipelines.prepared.corpus import Corpus

# Pairs of images up to which crops are looked for, too, which takes ten times as long.
FEW = 10_000_000


@dataclass(frozen=True)
class Overlap:
    """How many held-out images have near copies among those trained on, and how many these are."""

    held_out: int
    trained: int


def overlap(train: Corpus, held_out: Corpus) -> Overlap:
    """Images of sets without stored looks are passed over."""
    one, two = _looks(train), _looks(held_out)
    found = near_pairs(one, two, ALL if len(one) * len(two) <= FEW else QUICK)
    return Overlap(len(np.unique(found.j)), len(np.unique(found.i)))


def _looks(corpus: Corpus) -> np.ndarray:
    """uint8 [n, SIDE, SIDE] of the images with any contrast."""
    parts = [np.zeros((0, SIDE, SIDE), np.uint8)]
    for prepared, rows in corpus.parts:
        stored = stored_looks(prepared)
        if stored is not None:
            parts.append(stored.looks[rows[stored.measures[rows, 0] >= CONSTANT]])
    return np.concatenate(parts)
