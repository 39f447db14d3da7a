"""Batches of a prepared set: batch i is a pure function of (seed, i): the step is the position."""

import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import numpy as np
from grain.experimental import index_shuffle

from data_pipelines.errors import UserError
from data_pipelines.prepared.data import PreparedData, Records
from data_pipelines.prepared.records import FIELDS

THREADS = min(4, os.cpu_count() or 1)
BATCHES_AHEAD = 4
# So few that their bytes are still in the processor's cache when they are copied.
READ_AT_ONCE = 8
# Decoded arrays of a split up to this size stay in memory after their first use.
KEEP_BYTES = 2 * 2**30


class _KeptRecords:
    """Records as stacked arrays, kept in memory once read if the whole split fits."""

    def __init__(self, records: Records):
        self._records = records
        self._example = records.read([0])[0]
        size = len(records) * sum(np.asarray(value).nbytes for value in self._example.values())
        self._kept = _empty(self._example, len(records), _pages) if size <= KEEP_BYTES else None
        self._present = np.zeros(len(records), bool)

    def stacked(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The records `numbers`, each field stacked along a new first axis."""
        if self._kept is None:
            arrays = _empty(self._example, len(numbers))
            _read_into(arrays, np.arange(len(numbers)), self._records, numbers)
            return arrays
        missing = numbers[~self._present[numbers]]
        if len(missing):
            _read_into(self._kept, missing, self._records, missing)
            # Last, so that another thread reads a record itself rather than half of it.
            self._present[missing] = True
        return {name: values[numbers] for name, values in self._kept.items()}


def _pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.empty whose memory is taken up page by page, as records come in: NumPy asks for pages of
    2 MiB, of which a few scattered records take up all, slowly where a hypervisor lends them."""
    size = max(math.prod(shape) * dtype.itemsize, 1)
    private = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(private, dtype, math.prod(shape)).reshape(shape)


def _empty(example: dict, n: int, new: Callable = np.empty) -> dict[str, np.ndarray]:
    """Room for `n` records with the fields of `example`."""
    fields = {name: np.asarray(value) for name, value in example.items()}
    return {name: new((n, *value.shape), value.dtype) for name, value in fields.items()}


def _read_into(
    arrays: dict[str, np.ndarray], places: np.ndarray, records: Records, numbers: np.ndarray
) -> None:
    """Put the records `numbers` at `places` of the arrays."""
    for i in range(0, len(numbers), READ_AT_ONCE):
        some = slice(i, i + READ_AT_ONCE)
        for place, record in zip(places[some], records.read(numbers[some]), strict=True):
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


def _train_fields(masks: bool) -> tuple[str, ...]:
    return ('image', 'label', 'lung_mask') if masks else ('image', 'label')


def _train_order(
    prepared: PreparedData, split: str, batch_size: int, seed: int, shard: tuple[int, int]
) -> Callable[[int], np.ndarray]:
    """Batch number -> the numbers of this process's records in it, int32 [b]."""
    rows = _part(batch_size, shard)
    n = prepared.count(split)

    def number(row: int) -> int:
        epoch, place = divmod(row, n)
        return index_shuffle(place, max_index=n - 1, seed=(seed + epoch) % 2**32, rounds=4)

    def numbers(batch: int) -> np.ndarray:
        first = batch * batch_size
        return np.array([number(first + k) for k in range(rows.start, rows.stop)], np.int32)

    return numbers


def train_rows(
    prepared: PreparedData,
    split: str,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[np.ndarray]:
    """The record numbers, int32 [b], of the batches that train_batches yields, without reading."""
    return map(_train_order(prepared, split, batch_size, seed, shard), count(start))


def whole_split(prepared: PreparedData, split: str, masks: bool = False) -> dict[str, np.ndarray]:
    """All records of a split, in stored order: the fields of train_batches as arrays [N, ...],
    so that array[rows] with rows from train_rows is a batch."""
    records = Records(prepared, split, _train_fields(masks))
    arrays = _empty(records.read([0])[0], len(records))
    numbers = np.arange(len(records))
    _read_into(arrays, numbers, records, numbers)
    return arrays


def train_batches(
    prepared: PreparedData,
    split: str,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    masks: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches, the first being number `start`.

    Batch i holds rows i*B .. (i+1)*B of grain's source.shuffle(seed).repeat(), of which process
    shard[0] of shard[1] takes its contiguous part: `image` [b, R, R, 1] uint8 or uint16, `label`
    [b] int32 and, with `masks`, `lung_mask` [b, R, R, 1] uint8. `batch_size` is that of all
    processes together; 0 <= seed < 2**32.
    """
    order = _train_order(prepared, split, batch_size, seed, shard)
    kept = _KeptRecords(Records(prepared, split, _train_fields(masks)))
    return _prefetch(lambda batch: kept.stacked(order(batch)), count(start))


def eval_batches(
    prepared: PreparedData,
    split: str,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    masks: bool = True,
) -> Iterator[dict]:
    """Every record of a split exactly once, in stored order, in batches of one size.

    The fields of the record as arrays [b, ...] (texts as str arrays, boxes as a list of arrays
    [n, 4]) and `valid` [b] bool: the last batch is filled up with repeated rows, not valid. All
    processes get the same number of batches; `batch_size` is that of all together.
    """
    rows = _part(batch_size, shard)
    fields = tuple(name for name in FIELDS if masks or name != 'lung_mask')
    records = Records(prepared, split, fields)
    n = len(records)

    def batch(number: int) -> dict:
        numbers = np.arange(number * batch_size + rows.start, number * batch_size + rows.stop)
        return _stack(records.read(numbers % n)) | {'valid': numbers < n}

    return _prefetch(batch, range(-(-n // batch_size)))


def read_records(prepared: PreparedData, split: str, numbers: Iterable[int]) -> dict:
    """The records of a split with these numbers (stored order), fields as in eval_batches."""
    records = Records(prepared, split, FIELDS)
    return _stack(records.read(list(numbers)))
