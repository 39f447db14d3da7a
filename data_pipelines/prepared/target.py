"""What is to be recognised: some names of the labels, and what an uncertain label counts as."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus
from data_pipelines.prepared.index import NO, NOT_SAID, UNCERTAIN, YES

if TYPE_CHECKING:
    from data_pipelines.prepared.data import PreparedSet

# What an uncertain label counts as: as if nothing were said, as present, or as absent.
POLICIES = {'ignore': NOT_SAID, 'positive': YES, 'negative': NO}
UNKNOWN = -1


@dataclass(frozen=True)
class Target:
    """Names in the order of the outputs; `exclusive`: an image shows exactly one of them.

    The names are looked for by name in each set of a corpus.
    """

    names: tuple[str, ...]
    exclusive: bool
    uncertain: str = 'ignore'

    def __post_init__(self):
        if self.uncertain not in POLICIES:
            raise UserError(
                f'Uncertain labels cannot count as {self.uncertain!r}; choose one of '
                f'{", ".join(POLICIES)}.'
            )

    def values(self, corpus: Corpus) -> np.ndarray:
        """Exclusive: int32 [N], the name's number, -1 where none of them, or nothing, is said.
        Otherwise int32 [N, F] of 1, 0 and -1 (not known)."""
        said = np.concatenate([self._said(*part) for part in corpus.parts])
        if not self.exclusive:
            return np.where(said == NOT_SAID, UNKNOWN, said).astype(np.int32)
        found = said == YES
        return np.where(found.sum(1) == 1, found.argmax(1), UNKNOWN).astype(np.int32)

    def _said(self, prepared: 'PreparedSet', rows: np.ndarray) -> np.ndarray:
        """YES, NO or NOT_SAID of each name, int8 [n, F]."""
        said = np.full((len(rows), len(self.names)), NOT_SAID, np.int8)
        for column, name in enumerate(self.names):
            if name in prepared.names:
                said[:, column] = prepared.index.labels[rows, prepared.names.index(name)]
        return np.where(said == UNCERTAIN, np.int8(POLICIES[self.uncertain]), said)

    def _known(self, corpus: Corpus) -> np.ndarray:
        """Of which images something is known, bool [N]."""
        values = self.values(corpus)
        return values != UNKNOWN if self.exclusive else (values != UNKNOWN).any(1)

    def labelled(self, corpus: Corpus) -> Corpus:
        """The images of which something is known."""
        return corpus.take(self._known(corpus))

    def strata(self, corpus: Corpus) -> np.ndarray:
        """For Corpus.fraction and Corpus.folds, int64 [N]: the class, else the positive finding
        that is rarest in the corpus; -1 without any."""
        values = self.values(corpus)
        if self.exclusive:
            return values.astype(np.int64)
        positive = values == YES
        rarest_first = np.argsort(positive.sum(0), kind='stable')
        rarest = rarest_first[positive[:, rarest_first].argmax(1)]
        return np.where(positive.any(1), rarest, UNKNOWN)

    def counts(self, corpus: Corpus) -> list[int]:
        """How many images show each name."""
        values = self.values(corpus)
        numbers = range(len(self.names))
        found = values[:, None] == numbers if self.exclusive else values == YES
        return found.sum(0).tolist()

    def balance(self, corpus: Corpus) -> tuple[tuple[int, int], ...]:
        """Of each name, how many images are known to be without it, and how many have it."""
        values, having = self.values(corpus), self.counts(corpus)
        known = (values != UNKNOWN).sum(0)
        known = known if values.ndim == 2 else [known] * len(having)
        return tuple((int(n) - there, there) for n, there in zip(known, having, strict=True))

    def fingerprint(self, corpus: Corpus) -> str:
        """SHA-256 of the names, the policy and the values: what a readout learns from."""
        digest = hashlib.sha256(repr((self.names, self.exclusive, self.uncertain)).encode())
        digest.update(np.ascontiguousarray(self.values(corpus), '<i4').tobytes())
        return digest.hexdigest()


def target_of(
    prepared: 'PreparedSet', names: Sequence[str] = (), uncertain: str = 'ignore'
) -> Target:
    """The target of a set's labels: `names`, in this order, or all; UserError."""
    names = tuple(names) or prepared.names
    if not prepared.names:
        raise UserError(
            f'{prepared.directory} has no labels, so nothing can be learnt to be recognised in '
            'it. Prepare it again with labels (class folders, or a column label in metadata.csv).'
        )
    wrong = [name for name in names if name not in prepared.names]
    wrong += [name for name, n in Counter(names).items() if n > 1]
    if wrong:
        raise UserError(
            f'The names {", ".join(wrong)} cannot be chosen: take each of '
            f'{", ".join(prepared.names)} once at most.'
        )
    if prepared.exclusive and len(names) < 2:
        raise UserError(
            f'{names[0]} alone cannot be told from anything: choose two or more of '
            f'{", ".join(prepared.names)}.'
        )
    return Target(names, prepared.exclusive, uncertain)
