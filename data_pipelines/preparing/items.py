"""What is to be prepared: the settings, the raw files, and their prepared images in the cache.

Several machines that see the same folders can each prepare a share of the files; a preparation
that follows finds them in the cache.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.datasets import DATASETS, read_options
from data_pipelines.datasets.base import Listing
from data_pipelines.errors import UserError
from data_pipelines.files import NAME
from data_pipelines.preparing import ingest
from data_pipelines.preparing.workers import Died, map_isolated
from data_pipelines.progress import with_progress
from data_pipelines.storage.places import local, url_of
from data_pipelines.storage.raw import pull_files

# How images come to their splits: as the source says, or else drawn; drawn; all for training.
GIVEN, DRAWN, NONE = 'given', 'drawn', 'none'


@dataclass(frozen=True)
class Preparation:
    """What is prepared, from what, and how; UserError for settings that cannot be."""

    dataset: str  # the reader, one of DATASETS
    source: str | Path | None  # folder of the raw files
    data_dir: str | Path
    size: int = 256  # pixels on a side
    bits: int = 8  # 8 or 16 per pixel
    seed: int = 0  # of the splits that are drawn
    name: str = ''  # of the prepared set; '' = the dataset
    splits: str = GIVEN
    options: tuple[str, ...] = ()  # of the reader: NAME=VALUE

    def __post_init__(self):
        if self.dataset not in DATASETS:
            raise UserError(f'Unknown data set {self.dataset!r}; known are {", ".join(DATASETS)}.')
        name, source = self.name or self.dataset, self.source
        if not NAME.fullmatch(name):
            raise UserError(f'{name!r} cannot name a prepared set; use letters, digits, _ and -.')
        if self.bits not in (8, 16) or self.size < 8:
            raise UserError(
                f'--bits must be 8 or 16 and --size at least 8, not {self.bits} and {self.size}.'
            )
        if self.splits not in (GIVEN, DRAWN, NONE):
            raise UserError(
                f'--splits must be {GIVEN}, {DRAWN} or {NONE}, not {self.splits!r}.'
            )
        if source is None and self.dataset == 'synthetic_cxr':
            source = local(self.data_dir) / name / 'raw'
        elif self.dataset == 'synthetic_cxr' and url_of(local(source)):
            raise UserError(f'synthetic_cxr draws its raw files into a folder, not at {source}.')
        if source is None:
            raise UserError(
                f'The data set {self.dataset} needs --source, the folder of its raw files.'
            )
        read_options(DATASETS[self.dataset], self.options)
        object.__setattr__(self, 'name', name)
        object.__setattr__(self, 'source', local(source))
        object.__setattr__(self, 'data_dir', local(self.data_dir))

    @property
    def directory(self) -> Path:
        """Of the prepared set."""
        return self.data_dir / self.name / f'{self.size}px'

    @property
    def cache(self) -> Path:
        """Where the prepared images lie until the set is put together."""
        return self.data_dir / '.cache' / self.name / f'{self.size}px'

    @property
    def told_options(self) -> tuple[str, ...]:
        """The options without folders of this machine: a table's cells are part of its items."""
        head = 'metadata='
        return tuple(
            head + Path(each.removeprefix(head)).name if each.startswith(head) else each
            for each in self.options
        )

    def list_items(self) -> Listing:
        """What the data set's own module finds in the source folder; its notes are told on
        stderr. UserError."""
        if self.dataset != 'synthetic_cxr':
            pull_files(self.source)
        reader = DATASETS[self.dataset]
        listing = reader.list_items(self.source, **read_options(reader, self.options))
        for note in listing.notes:
            print(f'note: {note}', file=sys.stderr, flush=True)
        return listing

    def make_tasks(self, listing: Listing) -> dict[str, ingest.FileTask]:
        """{relative path: task} of every image, with a private cache for the results."""
        private = self.data_dir / '.cache'
        if not private.is_dir():
            private.mkdir(parents=True, exist_ok=True)
            private.chmod(0o700)
        cache = self.cache
        cache.mkdir(parents=True, exist_ok=True)
        return {
            item.relative: ingest.make_task(item, self.size, self.bits, cache, listing.channels)
            for item in listing.items
        }


def checked_processes(processes: int | None) -> int:
    """How many processes to use, None being one per core; UserError."""
    processes = (os.cpu_count() or 1) if processes is None else processes
    if processes < 1:
        raise UserError(f'processes must be at least 1, not {processes}.')
    return processes


def missing(tasks: Iterable[ingest.FileTask]) -> list[ingest.FileTask]:
    """Those that are not in the cache, which is listed once."""
    tasks, there = list(tasks), {}
    for folder in {task.result.parent for task in tasks}:
        there[folder] = set(os.listdir(folder))
    return [task for task in tasks if task.result.name not in there[task.result.parent]]


def decode(tasks: Sequence[ingest.FileTask], processes: int) -> dict[str, str]:
    """Prepare files; {relative path: reason} of the unreadable."""
    return {
        task.relative: reason
        for task, reason in with_progress(_outcomes(tasks, processes), len(tasks), 'decoding')
        if reason
    }


def _outcomes(
    tasks: Sequence[ingest.FileTask], processes: int
) -> Iterator[tuple[ingest.FileTask, str]]:
    """Each task and '' or the reason; the pieces of a volume go to one process, one after another.
    """
    files = [task for task in tasks if task.piece is None]
    volumes = ingest.by_volume(task for task in tasks if task.piece is not None)
    if files:
        for task, outcome in map_isolated(ingest.prepare_file, files, processes):
            yield task, str(outcome)
    if volumes:
        for pieces, outcome in map_isolated(ingest.prepare_volume, volumes, processes):
            reasons = [str(outcome)] * len(pieces) if isinstance(outcome, Died) else outcome
            for task, reason in zip(pieces, reasons, strict=True):
                # Those that were done before the process died are there.
                yield task, '' if task.result.is_file() else reason


def prepare_share(
    what: Preparation, share: tuple[int, int], processes: int | None = None
) -> tuple[int, dict[str, str]]:
    """Prepare the files of share[0] of share[1] into the cache, for a later prepare(): how many
    files the share has, and {relative path: reason} of the unreadable.

    Shares may be prepared at the same time, on machines that see the same folders. UserError.
    """
    processes = checked_processes(processes)
    if url_of(what.data_dir):
        raise UserError(
            f'Shares meet in a folder that all machines see, which {url_of(what.data_dir)} is not: '
            'give such a folder as --data_dir, or prepare without --shard.'
        )
    if what.dataset == 'synthetic_cxr':
        raise UserError(
            'The files of synthetic_cxr are generated by one machine: prepare it without --shard.'
        )
    tasks = what.make_tasks(what.list_items())
    # Hashed names spread large and slow files evenly, in the same way on every machine.
    parts = sorted(ingest.by_volume(tasks.values()), key=lambda part: part[0].result.name)
    own = [task for part in parts[share[0] :: share[1]] for task in part]
    return len(own), decode(missing(own), processes)


def parse_share(text: str) -> tuple[int, int]:
    """'I/N' as (I, N); UserError unless 0 <= I < N."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    index, shares = map(int, match.groups()) if match else (0, 0)
    if index >= shares:
        raise UserError(f'--shard must be I/N with I from 0 to N - 1, such as 0/4, not {text}.')
    return index, shares
