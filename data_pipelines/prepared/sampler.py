"""Which images a training batch holds: a pure function of (corpus, seed, number of the batch)."""

import functools
from dataclasses import dataclass

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus, numbered, permutation
from data_pipelines.prepared.order import epoch_order

BALANCES = ('none', 'source', 'patient', 'class')


@dataclass(frozen=True, eq=False)
class Sampler:
    """Batches of a corpus, by number.

    balance 'none': every image once in each epoch, in the order of order.epoch_order(seed + epoch),
    whose border may lie within a batch. 'source' (the set where it is unknown),
    'patient' and 'class' (`strata`, int [N]): rounds, in each of which every group gives one image,
    in random order; a group gives each of its images before it gives one again.
    """

    corpus: Corpus
    batch_size: int  # of all processes together
    seed: int  # 0 to 2**32 - 1
    balance: str = 'none'
    strata: np.ndarray | None = None

    def __post_init__(self):
        if not len(self.corpus):
            raise UserError(f'No images of {self.corpus.title} are left to draw batches from.')
        if self.balance not in BALANCES:
            raise UserError(
                f'Batches cannot be balanced by {self.balance!r}; choose one of '
                f'{", ".join(BALANCES)}.'
            )
        if self.balance == 'class' and self.strata is None:
            raise ValueError("balance 'class' needs strata")

    def rows(self, batch: int, part: slice = slice(None)) -> np.ndarray:
        """The numbers of the images in the corpus, int32 [B]; or only `part` of them."""
        first = batch * self.batch_size
        draw = self._uniform if self.balance == 'none' else self._balanced
        return np.array(draw(range(first, first + self.batch_size)[part]), np.int32)

    def _uniform(self, places: range) -> list[int]:
        n, rows = len(self.corpus), []
        while len(places):
            epoch, first = divmod(places.start, n)
            order = self._order('images', n, epoch)[first : first + len(places)]
            rows += order.tolist()
            places = places[len(order) :]
        return rows

    def _balanced(self, places: range) -> list[int]:
        members, starts = self._groups
        groups, rows = len(starts) - 1, []
        for place in places:
            turn, place_in_round = divmod(place, groups)
            group = int(self._order('groups', groups, turn)[place_in_round])
            n = int(starts[group + 1] - starts[group])
            epoch, place_in_group = divmod(turn, n)
            rows.append(int(members[starts[group] + self._order(group, n, epoch)[place_in_group]]))
        return rows

    def _order(self, of: int | str, n: int, epoch: int) -> np.ndarray:
        """The order of a group's `n` members, of the groups or of all images; the last one of each
        is kept."""
        kept = self._orders.get(of)
        if kept is None or kept[0] != epoch:
            if of == 'images':
                order = epoch_order(n, (self.seed + epoch) % 2**32)
            else:
                order = permutation(n, f'{self.seed}/{of}/{epoch}')
            kept = self._orders[of] = epoch, order
        return kept[1]

    @functools.cached_property
    def _orders(self) -> dict[int | str, tuple[int, np.ndarray]]:
        return {}

    @functools.cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        """(the images, group after group, where each group starts and the last ends).

        Groups are numbered as they first appear: pseudonyms differ from machine to machine.
        """
        if self.balance == 'class':
            values = np.asarray(self.strata)
        elif self.balance == 'patient':
            values = self.corpus.groups
        else:
            source = self.corpus.column('source')
            values = np.where(source == '', np.char.add('set ', self.corpus.column('set')), source)
        group_of = numbered(values)
        members = np.argsort(group_of, kind='stable')
        return members, np.cumsum([0, *np.bincount(group_of)])
