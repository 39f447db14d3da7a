"""The order of training: golden numbers, grain's own pipeline, and balance by brute force."""

from collections import Counter

import grain
import numpy as np
import pytest
from grain.experimental import index_shuffle

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import union
from data_pipelines.prepared.order import epoch_order
from data_pipelines.prepared.sampler import Sampler
from tests.prepared.made_up import made_up_set

# Of the first edition's loader: 246 images, batches of 8, seed 12345. Batch 30 spans two epochs.
GOLDEN = {
    0: [151, 16, 111, 45, 194, 6, 166, 216],
    30: [132, 193, 112, 99, 51, 198, 219, 80],
    31: [111, 118, 16, 50, 101, 29, 201, 217],
    40: [88, 165, 236, 86, 0, 156, 134, 62],
}
GOLDEN_100_000 = [11331, 69609, 49331, 39851]
GOLDEN_300_000 = [162818, 222495, 89650, 16742]


def test_the_order_is_that_of_every_earlier_run():
    sampler = Sampler(made_up_set(n=246).corpus(), 8, seed=12345)
    for batch, rows in GOLDEN.items():
        found = sampler.rows(batch)
        assert found.dtype == np.int32 and found.tolist() == rows


@pytest.mark.parametrize(
    ('n', 'batch', 'seed'), [(1, 3, 0), (2, 7, 1), (10, 4, 7), (33, 8, 2**32 - 1), (70000, 6, 3)]
)
def test_the_order_is_grains_shuffled_epochs(n, batch, seed):
    source = grain.MapDataset.source(list(range(n))).shuffle(seed).repeat()
    sampler = Sampler(made_up_set(n=n).corpus(), batch, seed)
    for number in (0, 1, 5, 40):
        expected = [source[k] for k in range(number * batch, (number + 1) * batch)]
        assert sampler.rows(number).tolist() == expected


@pytest.mark.parametrize('n', [2, 255, 2**16, 2**16 + 1, 2**18 + 1])
def test_an_order_has_every_number_once(n):
    """Of lengths one above a power of four, too, of which grain takes two numbers for one."""
    order = epoch_order(n, 9)
    assert order.dtype == np.int32 and (np.sort(order) == np.arange(n)).all()
    if n > 255:
        same = [index_shuffle(k, max_index=n - 1, seed=9, rounds=4) for k in (0, n - 1)]
        assert (same[0] == same[1]) == (n != 2**16)


def test_golden_orders_of_larger_numbers_of_bits():
    """As the first edition drew them, with 18 and 20 bits."""
    assert epoch_order(100_000, 5)[[0, 1, 2, 99_999]].tolist() == GOLDEN_100_000
    assert epoch_order(300_000, 6)[[0, 1, 2, 299_999]].tolist() == GOLDEN_300_000


SIZES = (1, 7, 3, 12, 2)


def grouped(balance):
    """A corpus in groups of SIZES, scattered; (corpus, group of each image, strata)."""
    group = np.random.default_rng(1).permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    names = np.array(['b', '', 'c', 'a', 'd'])[group]
    columns = {'patient': [f'p{k}' for k in group]} if balance == 'patient' else {}
    columns |= {'source': names} if balance == 'source' else {}
    return made_up_set(n=len(group), **columns).corpus(), group, group - 1


@pytest.mark.parametrize('balance', ['source', 'patient', 'class'])
@pytest.mark.parametrize('batch', [1, 5, 8])
def test_every_round_has_every_group_and_every_group_its_members_in_turn(balance, batch):
    corpus, group, strata = grouped(balance)
    sampler = Sampler(corpus, batch, 3, balance, strata if balance == 'class' else None)
    drawn = np.concatenate([sampler.rows(k) for k in range(600 // batch)])
    assert drawn.dtype == np.int32
    rounds = drawn[: len(drawn) // 5 * 5].reshape(-1, 5)
    orders = [tuple(group[one]) for one in rounds]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(orders)) > 40, 'in shuffled order'
    for k, size in enumerate(SIZES):
        own = drawn[group[drawn] == k]
        cycles = own[: len(own) // size * size].reshape(-1, size)
        assert all(set(cycle) == set(np.flatnonzero(group == k)) for cycle in cycles)
        assert size < 3 or len({tuple(cycle) for cycle in cycles}) > 3
    # Any batch on its own is the same: the position is the step.
    for number in (7, 2, 50):
        again = Sampler(corpus, batch, 3, balance, strata if balance == 'class' else None)
        expected = drawn[number * batch : (number + 1) * batch]
        assert again.rows(number).tolist() == expected.tolist()
    other = Sampler(corpus, batch, 4, balance, strata if balance == 'class' else None)
    assert any((other.rows(k) != sampler.rows(k)).any() for k in range(9))


def test_images_of_unknown_source_count_for_their_set():
    one = made_up_set('one', source=['', 'A', ''])
    two = made_up_set('two', source=['A', '', 'B'])
    corpus = union([one.corpus(), two.corpus()])
    sampler = Sampler(corpus, 4, 0, 'source')
    drawn = Counter(np.concatenate([sampler.rows(k) for k in range(50)]).tolist())
    # Four groups: {0, 2} of set one, {1, 3} of A, {4} of set two, {5} of B.
    assert [drawn[k] for k in range(6)] == [25, 25, 25, 25, 50, 50]


def test_balanced_orders_do_not_depend_on_pseudonyms():
    patients = ['x', 'y', 'x', 'z', 'z', 'x']
    here, there = (
        Sampler(made_up_set(patient=patients, salt=salt).corpus(), 4, 9, 'patient')
        for salt in ('a', 'zz')
    )
    for batch in range(6):
        assert here.rows(batch).tolist() == there.rows(batch).tolist()


def test_what_cannot_be_drawn_from_is_told():
    corpus = made_up_set(n=3).corpus()
    with pytest.raises(UserError, match='No images'):
        Sampler(corpus.take(np.array([], int)), 2, 0)
    with pytest.raises(UserError, match="'age'"):
        Sampler(corpus, 2, 0, 'age')
    with pytest.raises(ValueError, match='strata'):
        Sampler(corpus, 2, 0, 'class')
