"""Batches of a corpus. Training batch i is a pure function of (seed, i): the step is the position.

Labels are given by the caller (Target.values), not read from the records.
"""

import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus
from data_pipelines.prepared.records import FIELDS, pixel_type
from data_pipelines.prepared.sampler import Sampler

THREADS = min(4, os.cpu_count() or 1)
BATCHES_AHEAD = 4
# So few that their bytes are still in the processor's cache when they are copied.
READ_AT_ONCE = 8
# Decoded arrays of a corpus up to this size stay in memory after their first use.
KEEP_BYTES = 2 * 2**30
PIXELS = ('image', 'lung_mask')
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
    kept = _KeptPixels(corpus, fields)

    def batch(number: int) -> dict[str, np.ndarray]:
        rows = order(number)
        return kept.stacked(rows) | _facts(rows, fields, labels)

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
    arrays = _empty(corpus, fields, len(corpus))
    _read_into(arrays, rows, corpus, rows)
    return arrays | _facts(rows.astype(np.int32), fields, labels)


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
        return _stack(_read(corpus, rows, fields)) | facts | {'valid': places < n}

    return _prefetch(batch, range(-(-n // batch_size)))


def read_records(corpus: Corpus, numbers: Iterable[int]) -> dict:
    """The records of the images of these numbers, fields as in eval_batches."""
    return _stack(_read(corpus, np.asarray(list(numbers), np.int64), FIELDS))


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


def _read(corpus: Corpus, numbers: np.ndarray, fields: Sequence[str]) -> list[dict]:
    """The records of these images, each from its own set."""
    if len(corpus.parts) == 1:
        prepared, rows = corpus.parts[0]
        return prepared.read(rows[numbers], fields)
    records = [{}] * len(numbers)
    part_of = np.searchsorted(corpus.ends, numbers, side='right')
    for part in np.unique(part_of):
        prepared, rows = corpus.parts[part]
        places = np.flatnonzero(part_of == part)
        own = rows[numbers[places] - (corpus.ends[part] - len(rows))]
        for place, record in zip(places, prepared.read(own, fields), strict=True):
            records[place] = record
    return records


class _KeptPixels:
    """Images and masks as stacked arrays, kept in memory once read if all of them fit."""

    def __init__(self, corpus: Corpus, fields: Sequence[str]):
        self._corpus, self._fields = corpus, fields
        n = len(corpus)
        size = sum(array.nbytes for array in _empty(corpus, fields, 1).values()) * n
        self._kept = _empty(corpus, fields, n, _pages) if size <= KEEP_BYTES else None
        self._present = np.zeros(n, bool)

    def stacked(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The images `numbers`, each field stacked along a new first axis."""
        if self._kept is None:
            arrays = _empty(self._corpus, self._fields, len(numbers))
            _read_into(arrays, np.arange(len(numbers)), self._corpus, numbers)
            return arrays
        missing = numbers[~self._present[numbers]]
        if len(missing):
            _read_into(self._kept, missing, self._corpus, missing)
            # Last, so that another thread reads a record itself rather than half of it.
            self._present[missing] = True
        return {name: values[numbers] for name, values in self._kept.items()}


def _pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.empty whose memory is taken up page by page, as records come in: NumPy asks for pages of
    2 MiB, of which a few scattered records take up all, slowly where a hypervisor lends them."""
    size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
    private = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(private, dtype, math.prod(shape)).reshape(shape)


def _empty(
    corpus: Corpus, fields: Sequence[str], n: int, new: Callable = np.empty
) -> dict[str, np.ndarray]:
    """Room for `n` images, with those of `fields` that are read from records."""
    kinds = {'image': (corpus.channels, pixel_type(corpus.bits)), 'lung_mask': (1, np.uint8)}
    return {
        name: new((n, corpus.size, corpus.size, channels), dtype)
        for name, (channels, dtype) in kinds.items()
        if name in fields
    }


def _read_into(
    arrays: dict[str, np.ndarray], places: np.ndarray, corpus: Corpus, numbers: np.ndarray
) -> None:
    """Put the images `numbers` at `places` of the arrays."""
    if not arrays:
        return
    for i in range(0, len(numbers), READ_AT_ONCE):
        some = slice(i, i + READ_AT_ONCE)
        records = _read(corpus, numbers[some], tuple(arrays))
        for place, record in zip(places[some], records, strict=True):
            for name, value in record.items():
                arrays[name][place] = value


def _stack(records: list[dict]) -> dict:
    """Fields of several records along a new first axis; boxes, which vary in number, as a list."""
    return {
        name: [record[name] for record in records]
        if name == 'boxes'
        else np.stack([record[name] for record in records])
        for name in records[0]
    }


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
