"""Batches of a corpus. Training batch i is a pure function of (seed, i): the step is the position.

Labels are given by the caller (Target.values), not read from the records.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus
from data_pipelines.prepared.data import PreparedSet
from data_pipelines.prepared.records import FIELDS, PIXELS
from data_pipelines.prepared.sampler import Sampler

THREADS = min(4, os.cpu_count() or 1)
BATCHES_AHEAD = 4
TRAIN_FIELDS = (*PIXELS, 'label', 'row')


def train_batches(
    corpus: Corpus,
    sampler: Sampler,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    fields: Sequence[str] = ('image',),
    labels: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches, the first being number `start`.

    Batch i holds the images sampler.rows(i), of which process shard[0] of shard[1] takes its
    contiguous part. `fields` out of `image` [b, R, R, C] uint8 or uint16, `lung_mask` [b, R, R, 1]
    uint8, `label` [b, ..] int32, the rows of `labels` [N, ..] (-1 without), and `row` [b] int32,
    the image's number in the corpus.
    """
    _check_fields(fields)
    order = _order(sampler, shard)

    def batch(number: int) -> dict[str, np.ndarray]:
        rows = order(number)
        return _read_pixels(corpus, fields, rows) | _facts(rows, fields, labels)

    return _prefetch(batch, count(start))


def train_rows(
    sampler: Sampler, start: int = 0, shard: tuple[int, int] = (0, 1)
) -> Iterator[np.ndarray]:
    """The images, int32 [b], of the batches that train_batches yields, without reading."""
    return map(_order(sampler, shard), count(start))


def whole(
    corpus: Corpus, fields: Sequence[str] = ('image',), labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """All images in order: the fields of train_batches as arrays [N, ...], so that array[rows]
    with rows from train_rows is a batch."""
    _check_fields(fields)
    rows = np.arange(len(corpus))
    return _read_pixels(corpus, fields, rows) | _facts(rows.astype(np.int32), fields, labels)


def eval_batches(
    corpus: Corpus,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    masks: bool = True,
    labels: np.ndarray | None = None,
) -> Iterator[dict]:
    """Every image exactly once, in order, in batches of one size.

    The fields of the record as arrays [b, ...] (texts as str arrays, boxes as a list of arrays
    [n, 4]; with `masks` False no lung_mask), `label` and `row` as in train_batches, and `valid`
    [b] bool: the last batch is filled up with repeated images, not valid. All processes get the
    same number of batches; `batch_size` is that of all together.
    """
    part = _part(batch_size, shard)
    fields = tuple(name for name in FIELDS if masks or name != 'lung_mask')
    n = len(corpus)

    def batch(number: int) -> dict:
        places = np.arange(number * batch_size + part.start, number * batch_size + part.stop)
        rows = (places % n).astype(np.int32)
        facts = _facts(rows, ('label', 'row'), labels)
        return _read(corpus, fields, rows) | facts | {'valid': places < n}

    return _prefetch(batch, range(-(-n // batch_size)))


def read_records(corpus: Corpus, numbers: Iterable[int]) -> dict:
    """The records of the images of these numbers, fields as in eval_batches."""
    return _read(corpus, FIELDS, np.asarray(list(numbers), np.int64))


def _check_fields(fields: Sequence[str]) -> None:
    unknown = set(fields) - set(TRAIN_FIELDS)
    if unknown:
        raise ValueError(f'training batches have the fields {TRAIN_FIELDS}, not {unknown}')


def _facts(rows: np.ndarray, fields: Sequence[str], labels: np.ndarray | None) -> dict:
    """The fields that no record needs to be read for."""
    facts = {}
    if 'label' in fields:
        known = None if labels is None else np.asarray(labels[rows], np.int32)
        facts['label'] = np.full(len(rows), -1, np.int32) if known is None else known
    if 'row' in fields:
        facts['row'] = rows
    return facts


def _by_set(
    corpus: Corpus, numbers: np.ndarray
) -> Iterator[tuple[PreparedSet, np.ndarray, np.ndarray]]:
    """(set, stored rows, their places in `numbers`) of the images `numbers`."""
    part_of = np.searchsorted(corpus.ends, numbers, side='right')
    for part in np.unique(part_of):
        prepared, rows = corpus.parts[part]
        places = np.flatnonzero(part_of == part)
        yield prepared, rows[numbers[places] - (corpus.ends[part] - len(rows))], places


def _read(corpus: Corpus, fields: Sequence[str], numbers: np.ndarray) -> dict:
    """Fields of the records of the images `numbers`, stacked along a new first axis; boxes, which
    vary in number, as a list."""
    arrays = _read_pixels(corpus, fields, numbers)
    rest, records = [name for name in fields if name not in arrays], [{}] * len(numbers)
    for prepared, rows, places in _by_set(corpus, numbers):
        for place, record in zip(places, prepared.read(rows, rest), strict=True):
            records[place] = record
    for name in rest:
        values = [record[name] for record in records]
        arrays[name] = values if name == 'boxes' else np.stack(values)
    return arrays


def _read_pixels(corpus: Corpus, fields: Sequence[str], numbers: np.ndarray) -> dict:
    """The pixels of the images `numbers`, each of `fields` that are pixels as [n, R, R, C]."""
    arrays = corpus.sets[0].empty(len(numbers), fields)
    for prepared, rows, places in _by_set(corpus, numbers):
        prepared.read_into(arrays, rows, places)
    return arrays


def _part(batch_size: int, shard: tuple[int, int]) -> slice:
    """The rows of a batch that process shard[0] of shard[1] takes."""
    index, processes = shard
    if batch_size % processes:
        raise UserError(
            f'The batch size {batch_size} is not a multiple of the {processes} processes.'
        )
    rows = batch_size // processes
    return slice(index * rows, (index + 1) * rows)


def _order(sampler: Sampler, shard: tuple[int, int]) -> Callable[[int], np.ndarray]:
    """Batch number -> the images of this process in it, int32 [b]."""
    part = _part(sampler.batch_size, shard)
    return lambda batch: sampler.rows(batch, part)


def _prefetch(make: Callable[[int], dict], numbers: Iterable[int]) -> Iterator[dict]:
    """make(number) in order, computed ahead in threads; their errors surface here."""
    numbers = iter(numbers)
    threads = ThreadPoolExecutor(THREADS)
    try:
        ahead = deque(threads.submit(make, i) for i in islice(numbers, BATCHES_AHEAD))
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(threads.submit(make, i) for i in islice(numbers, 1))
            yield batch
    finally:
        threads.shutdown(cancel_futures=True)
