"""Near copies of held-out images among those trained on, told before a run starts.

Looks are read from beside the sets, never made here. For each held-out image its nearest
neighbours alone are compared in detail, a few milliseconds' work, whatever is trained on.
Identical images need not be looked for: Corpus.without leaves them out of training.
"""

import functools
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
    """Held-out images with near copies among those trained on, and these copies: {(set, row)}.

    `unseen`: names of sets without stored looks, which were passed over.
    """

    held_out: frozenset
    trained: frozenset
    unseen: frozenset = frozenset()


def overlap(train: Corpus, held_out: Corpus) -> Overlap:
    """Found once in a process for the same images."""
    return _overlap(_Key(train), _Key(held_out))


class _Key:
    """A corpus that equals another of the same images."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus
        self._of = tuple((str(each.directory), rows.tobytes()) for each, rows in corpus.parts)

    def __eq__(self, other) -> bool:
        return self._of == other._of

    def __hash__(self) -> int:
        return hash(self._of)


@functools.lru_cache(maxsize=16)
def _overlap(train: _Key, held_out: _Key) -> Overlap:
    one, names_one, unseen_one = _looks(held_out.corpus)
    two, names_two, unseen_two = _looks(train.corpus)
    variants = ALL if len(one) * len(two) <= FEW else QUICK
    found = near_pairs(one, two, variants, one_way=True)
    return Overlap(
        frozenset(names_one[k] for k in found.i.tolist()),
        frozenset(names_two[k] for k in found.j.tolist()),
        unseen_one | unseen_two,
    )


def _looks(corpus: Corpus) -> tuple[np.ndarray, list[tuple[str, int]], frozenset]:
    """(uint8 [n, SIDE, SIDE] of the images with any contrast, their (set, row), sets without)."""
    parts, names, unseen = [np.zeros((0, SIDE, SIDE), np.uint8)], [], set()
    for prepared, rows in corpus.parts:
        stored = stored_looks(prepared)
        if stored is None:
            unseen |= {prepared.name} if len(rows) else set()
            continue
        rows = rows[stored.measures[rows, 0] >= CONSTANT]
        parts.append(stored.looks[rows])
        names += [(prepared.name, row) for row in rows.tolist()]
    return np.concatenate(parts), names, frozenset(unseen)
