"""The bench `input`: from records to batches."""

import functools
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.prepared import loader
from data_pipelines.prepared.data import PreparedSet, open_prepared
from data_pipelines.prepared.records import SPLIT, VERSION
from data_pipelines.prepared.sampler import Sampler
from data_pipelines.prepared.target import target_of
from scripts.benches.measure import report, say, spread, take_turns, timed
from scripts.benches.prepared_set import NAME, write_set

SIZE = 256
RECORDS, BATCH = 6144, 64


def bench_input(rounds: int) -> None:
    """Batches of images and labels from a prepared set whose files are in memory, or on disk."""
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), RECORDS, SIZE)
        open_prepared(folder, NAME, SIZE).map_records()
        from_memory(folder, rounds)
        # Nothing is mapped any more: what is mapped stays in memory.
        from_disk(folder, rounds)


def from_memory(folder: str, rounds: int) -> None:
    """`cpu_us`: processor time of both cores for an image, whatever else runs on the machine."""
    prepared, costs = open_prepared(folder, NAME, SIZE), {}
    mapped = training(prepared)
    consume(mapped, RECORDS)
    runs = {
        'tfds record by record': lambda: record_by_record(prepared),
        'files read in order': lambda: read_files(prepared),
        'loader, first epoch': lambda: consume(training(again(prepared)), RECORDS),
        'loader, later epochs': lambda: consume(mapped, 4 * RECORDS),
        'loader, evaluation': lambda: consume(evaluation(prepared), RECORDS),
    }

    def measured(name: str) -> Callable[[], int]:
        def run() -> int:
            start = time.process_time()
            images = runs[name]()
            costs.setdefault(name, []).append((time.process_time() - start) / images * 1e6)
            return images

        return run

    rates = take_turns({name: measured(name) for name in runs}, rounds)
    report('input', rates, 'files read in order', size=SIZE, batch=BATCH)
    for name, own in costs.items():
        say(bench='input', what=f'{name}, cost', **spread('cpu_us', own, 1))


def from_disk(folder: str, rounds: int) -> None:
    """The first epoch of a set of which nothing is in memory, against its files read in order."""
    rates = {'disk, files read in order': [], 'disk, loader, first epoch': []}
    share = []
    for number in range(2 * rounds):
        prepared = open_prepared(folder, NAME, SIZE)
        size, before = drop(prepared), disk_bytes()
        if number % 4 in (0, 3):  # neither always follows the other
            name, run = 'disk, files read in order', functools.partial(read_files, prepared)
        else:
            run = functools.partial(consume, training(prepared), RECORDS)
            name = 'disk, loader, first epoch'
        rates[name].append(timed(run))
        share.append((disk_bytes() - before) / size)
    report('input', rates, 'disk, files read in order', size=SIZE, batch=BATCH)
    say(bench='input', what='disk, bytes read for one of the files', **spread('share', share))


def again(prepared: PreparedSet) -> PreparedSet:
    """As at the start of a process: nothing is mapped."""
    return open_prepared(prepared.data_dir, prepared.name, prepared.size)


def training(prepared: PreparedSet) -> Iterator[dict]:
    corpus = prepared.corpus('train')
    values = target_of(prepared).values(corpus)
    sampler = Sampler(corpus, BATCH, seed=0)
    return loader.train_batches(corpus, sampler, fields=('image', 'label'), labels=values)


def evaluation(prepared: PreparedSet) -> Iterator[dict]:
    return loader.eval_batches(prepared.corpus('train'), BATCH, masks=False)


def consume(batches: Iterator[dict], images: int) -> int:
    return sum(len(batch['image']) for batch in islice(batches, images // BATCH))


def record_by_record(prepared: PreparedSet) -> int:
    """What TFDS itself offers."""
    source = tfds.builder_from_directory(str(prepared.directory / VERSION)).as_data_source(SPLIT)
    order = np.random.default_rng(0).permutation(RECORDS).tolist()
    for i in range(0, RECORDS, BATCH):
        records = [source[k] for k in order[i : i + BATCH]]
        np.stack([record['image'] for record in records])
        np.stack([record['labels'] for record in records])
    return RECORDS


def record_files(prepared: PreparedSet) -> list[Path]:
    return sorted((prepared.directory / VERSION).glob('*.array_record*'))


def read_files(prepared: PreparedSet) -> int:
    """The record files from beginning to end, in one thread: the most that can be expected."""
    room = bytearray(2**20)
    for path in record_files(prepared):
        with path.open('rb', buffering=0) as file:
            while file.readinto(room):
                pass
    return len(prepared.index)


def drop(prepared: PreparedSet) -> int:
    """Takes the record files, which nobody may have mapped, out of memory; their size."""
    size = 0
    gc.collect()
    for path in record_files(prepared):
        with path.open('rb') as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            size += os.fstat(file.fileno()).st_size
    return size


def disk_bytes() -> int:
    """What this process has had read from disks so far."""
    lines = Path('/proc/self/io').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('read_bytes'))
