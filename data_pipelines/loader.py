"""Batches of a prepared set: batch i is a pure function of (seed, i): the step is the position."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import grain
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.prepared import PreparedData, Records
from data_pipelines.records import FIELDS

THREADS = min(4, os.cpu_count() or 1)
BATCHES_AHEAD = 4
# Decoded arrays of a split up to this size stay in memory after their first use.
KEEP_BYTES = 2 * 2**30


class _KeptRecords:
    """Records as stacked arrays, kept in memory once read if the whole split fits."""

    def __init__(self, records: Records):
        self._records = records
        n, example = len(records), records.read([0])[0]
        self._kept = None
        if n * sum(np.asarray(value).nbytes for value in example.values()) <= KEEP_BYTES:
            # Memory is taken up page by page, as records come in.
            self._kept = {
                name: np.empty((n, *np.shape(value)), np.asarray(value).dtype)
                for name, value in example.items()
            }
            self._present = np.zeros(n, bool)

    def stacked(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The records `numbers`, each field stacked along a new first axis."""
        if self._kept is None:
            return _stack(self._records.read(numbers.tolist()))
        missing = numbers[~self._present[numbers]]
        if len(missing):
            for number, record in zip(missing, self._records.read(missing.tolist()), strict=True):
                for name, value in record.items():
                    self._kept[name][number] = value
            # Last, so that another thread reads a record itself rather than half of it.
            self._present[missing] = True
        return {name: values[numbers] for name, values in self._kept.items()}


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
    with ThreadPoolExecutor(THREADS) as threads:
        ahead = deque(threads.submit(make, i) for i in islice(numbers, BATCHES_AHEAD))
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(threads.submit(make, i) for i in islice(numbers, 1))
            yield batch


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
    rows = _part(batch_size, shard)
    fields = ('image', 'label', 'lung_mask') if masks else ('image', 'label')
    records = Records(prepared, split, fields)
    kept = _KeptRecords(records)
    # Shuffling numbers instead of records lets a batch be read in one go.
    order = grain.MapDataset.source(range(len(records))).shuffle(seed).repeat()

    def batch(number: int) -> dict[str, np.ndarray]:
        first = number * batch_size
        return kept.stacked(np.array([order[first + k] for k in range(rows.start, rows.stop)]))

    return _prefetch(batch, count(start))


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
        return _stack(records.read((numbers % n).tolist())) | {'valid': numbers < n}

    return _prefetch(batch, range(-(-n // batch_size)))


def read_records(prepared: PreparedData, split: str, numbers: Iterable[int]) -> dict:
    """The records of a split with these numbers (stored order), fields as in eval_batches."""
    records = Records(prepared, split, FIELDS)
    return _stack(records.read([int(number) for number in numbers]))
