"""Read a prepared set: batch i is a pure function of (seed, i), so the step is the position."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import grain
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.datasets import DATASETS
from data_pipelines.errors import UserError
from data_pipelines.records import FIELDS, VERSION, decode

CARD_FORMAT = 1
CARD_FILE = 'card.json'
THREADS = min(4, os.cpu_count() or 1)
BATCHES_AHEAD = 4
# Decoded arrays of a split up to this size stay in memory after their first use.
KEEP_BYTES = 2 * 2**30


@dataclass(frozen=True)
class PreparedData:
    """A finished prepared set. `classes` is () and `class_counts` are [] without labels.

    `statistics` {region: {'mean', 'std'}} are of the train split's pixels, scaled to [0, 1].
    """

    directory: Path
    name: str
    size: int
    bits: int
    classes: tuple[str, ...]
    counts: dict[str, int]
    class_counts: dict[str, list[int]]
    fingerprint: str
    has_patient_ids: bool
    has_lung_masks: bool
    statistics: dict[str, dict[str, float]]
    card: dict

    def contract(self, region: str = 'full') -> dict:
        """What a network trained on this input must be given later: see design section 6."""
        if region not in self.statistics:
            raise UserError(
                f'{self.directory} has no region {region!r}, only {sorted(self.statistics)}: '
                'lung regions need a lung mask for every image.'
            )
        return {
            'channels': 1, 'size': self.size, 'bits': self.bits, 'region': region,
            **self.statistics[region],
        }  # fmt: skip


def open_prepared(data_dir: str | Path, name: str, size: int) -> PreparedData:
    """Open <data_dir>/<name>/<size>px; a UserError says how to prepare what is missing."""
    if name not in DATASETS:
        raise UserError(f'Unknown data set {name!r}; known are {", ".join(DATASETS)}.')
    directory = Path(data_dir) / name / f'{size}px'
    source = '' if name == 'synthetic_cxr' else '--source <folder of the raw files> '
    command = (
        f'python -m data_pipelines.prepare --dataset {name} {source}'
        f'--data_dir {data_dir} --size {size}'
    )
    if not (directory / CARD_FILE).is_file():
        sizes = sorted(
            int(path.parent.name.removesuffix('px'))
            for path in Path(data_dir).glob(f'{name}/[0-9]*px/{CARD_FILE}')
        )
        exist = f' Prepared sizes of {name} there: {sizes}.' if sizes else ''
        raise UserError(f'{directory} holds no prepared set.{exist} Prepare it with: {command}')
    card = json.loads((directory / CARD_FILE).read_text())
    damage = _damage(directory, card)
    if damage:
        raise UserError(
            f'The prepared set in {directory} cannot be used: {damage}. Delete the folder and '
            f'prepare it again with: {command}'
        )
    return PreparedData(
        directory=directory,
        name=card['dataset'],
        classes=tuple(card['classes']),
        card=card,
        **{
            key: card[key]
            for key in (
                'size', 'bits', 'counts', 'class_counts', 'fingerprint', 'has_patient_ids',
                'has_lung_masks', 'statistics',
            )
        },
    )  # fmt: skip


def _damage(directory: Path, card: dict) -> str:
    """Why the card and the records do not belong together; '' when they do."""
    if card.get('format') != CARD_FORMAT:
        return f'its card has the format {card.get("format")}, this code needs {CARD_FORMAT}'
    for name, size in card['files'].items():
        path = directory / VERSION / name
        if not path.is_file():
            return f'{VERSION}/{name} is missing'
        if path.stat().st_size != size:
            return f'{VERSION}/{name} has {path.stat().st_size} bytes instead of {size}'
    info = json.loads((directory / VERSION / 'dataset_info.json').read_text())
    if card['fingerprint'] not in info['description']:
        return 'card.json and the records are of different preparations'
    return ''


class _Records:
    """Fields of the records of one split by number; thread-safe."""

    def __init__(self, prepared: PreparedData, split: str, fields: tuple[str, ...]):
        if split not in prepared.counts:
            raise UserError(f'There is no split {split!r}, only {list(prepared.counts)}.')
        builder = tfds.builder_from_directory(str(prepared.directory / VERSION))
        self._source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        self._fields, self._size, self._bits = fields, prepared.size, prepared.bits

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: list[int]) -> list[dict]:
        return [
            decode(raw, self._fields, self._size, self._bits)
            for raw in self._source.__getitems__(numbers)
        ]


class _KeptRecords:
    """_Records as stacked arrays, kept in memory once read if the whole split fits."""

    def __init__(self, records: _Records):
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
    records = _Records(prepared, split, fields)
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
    records = _Records(prepared, split, fields)
    n = len(records)

    def batch(number: int) -> dict:
        numbers = np.arange(number * batch_size + rows.start, number * batch_size + rows.stop)
        return _stack(records.read((numbers % n).tolist())) | {'valid': numbers < n}

    return _prefetch(batch, range(-(-n // batch_size)))


def read_records(prepared: PreparedData, split: str, numbers: Iterable[int]) -> dict:
    """The records of a split with these numbers (stored order), fields as in eval_batches."""
    records = _Records(prepared, split, FIELDS)
    return _stack(records.read([int(number) for number in numbers]))
