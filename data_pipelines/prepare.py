"""Prepare a data set: raw radiographs -> TFDS records in ArrayRecord files, with a data card.

    python -m data_pipelines.prepare --dataset siim_covid19 --source ~/siim --data_dir ~/prepared

A set lies in <data_dir>/<name>/<size>px. Sets of one data folder recognise each other's patients.

Exit codes: 0 every file was used, 2 a mistake to correct (told on stderr), 3 finished, but some
files were set aside (quarantine.csv says which and why). Running again does only what is missing.

Several machines that see the same folders share the work: each runs the command with another
--shard I/N (0/4 to 3/4), and then one runs it without, which puts the set together. With
--beam_runner the files are prepared by Apache Beam; further flags are then passed to Beam.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.datasets import DATASETS
from data_pipelines.datasets.base import Listing
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import CARD_FORMAT, PreparedSet, open_prepared
from data_pipelines.preparing import beam, ingest
from data_pipelines.preparing.entry import Entry
from data_pipelines.preparing.identity import digest, pseudonym, read_or_create_salt
from data_pipelines.preparing.items import (
    DRAWN,
    GIVEN,
    NONE,
    Preparation,
    checked_processes,
    decode,
    missing,
    parse_share,
    prepare_share,
)
from data_pipelines.preparing.publish import copy_up, publish
from data_pipelines.preparing.split_entries import give_splits
from data_pipelines.storage.places import name_of

QUARANTINED = 3
PATHS = ('path', 'lung_mask')  # of an item: the source may be mounted elsewhere


def prepare(
    dataset: str,
    source: str | Path | None,
    data_dir: str | Path,
    size: int = 256,
    *,
    processes: int | None = None,
    images: int = 1000,
    shortcut: float = 0.0,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
    **settings,
) -> PreparedSet:
    """Prepare <data_dir>/<name>/<size>px, or open it if it is up to date.

    `settings`: bits, seed, name, splits and options, as Preparation has them. `images` and
    `shortcut` are for synthetic_cxr only, whose raw files are generated into `source` first
    (default <data_dir>/<name>/raw). Raises UserError. card['quarantined'] is the number of files
    set aside.
    """
    what = Preparation(dataset, source, data_dir, size, **settings)
    processes = checked_processes(processes)
    if dataset == 'synthetic_cxr':
        # Only here, as drawing needs more of SciPy than preparing does.
        from data_pipelines.synthetic import generate

        generate(what.source, images, what.seed, shortcut=shortcut, processes=processes)
    listing = what.list_items()
    salt = read_or_create_salt(what.data_dir)
    origin = {
        'inputs': _inputs_digest(what, listing),
        'source_id': pseudonym(salt, digest('source', name_of(what.source.resolve()))),
    }
    existing = _up_to_date(what, origin)
    if existing is not None:
        return existing
    tasks = what.make_tasks(listing)
    if beam_runner is not None:
        beam.prepare_files(missing(tasks.values()), beam_runner, beam_options)
    failed = decode(missing(tasks.values()), processes)
    entries = [
        Entry(item, ingest.load_meta(tasks[item.relative].result), len(listing.names), what.name)
        for item in listing.items
        if item.relative not in failed
    ]
    # Hashed names give an order that is random, yet the same on every machine.
    entries.sort(key=lambda entry: entry.image)
    quarantine = sorted([*listing.rejected, *failed.items()])
    card = origin | {
        'format': CARD_FORMAT, 'name': what.name, 'dataset': dataset, 'size': size,
        'bits': what.bits, 'channels': listing.channels,
        'names': list(listing.names), 'exclusive': listing.exclusive,
        'split_seed': what.seed, 'split_origin': give_splits(what, entries, quarantine),
        'quarantined': len(quarantine), 'notes': listing.notes,
        'licence': DATASETS[dataset].LICENCE, 'options': list(what.told_options),
    }  # fmt: skip
    publish(what, card, entries, quarantine, lambda e: ingest.load(tasks[e.item.relative].result))
    for leftover in set(what.cache.iterdir()) - {task.result for task in tasks.values()}:
        # Another machine may be writing a share still; such files are small and few.
        if leftover.suffix != '.tmp':
            leftover.unlink(missing_ok=True)
    prepared = open_prepared(what.data_dir, what.name, size)
    prepared.map_records()
    return prepared


def _inputs_digest(what: Preparation, listing: Listing) -> str:
    """Changes when anything changes that the prepared set depends on."""
    table = what.source / 'splits.csv'
    parts = [
        (what.dataset, what.size, what.bits, what.seed, what.splits, what.told_options,
         listing.names, listing.exclusive, listing.channels, ingest.DECODER_VERSION, CARD_FORMAT),
        table.read_bytes() if table.is_file() else b'',
        *listing.rejected,
        *sorted(
            (
                repr([value for name, value in vars(item).items() if name not in PATHS]),
                ingest.file_state(item.path),
                ingest.file_state(item.lung_mask),
            )
            for item in listing.items
        ),
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _up_to_date(what: Preparation, origin: dict) -> PreparedSet | None:
    try:
        existing = open_prepared(what.data_dir, what.name, what.size)
    except UserError:
        return None  # none, or not usable: it is prepared anew
    if existing.card['inputs'] == origin['inputs']:
        copy_up(existing.directory)
        return existing
    if existing.card['source_id'] != origin['source_id']:
        raise UserError(
            f'{name_of(existing.directory)} was prepared from another source folder. Give this set '
            'another --name, or delete that folder if it is no longer needed.'
        )
    return None


def _summary(prepared: PreparedSet) -> str:
    card = prepared.card
    lines = [f'{"split":12}{"images":>8}{"patients":>10}  images of each label']
    for split, n in card['counts'].items():
        labels = ', '.join(
            f'{name} {count}'
            for name, count in zip(prepared.names, card['name_counts'][split], strict=True)
        )
        lines.append(f'{split:12}{n:>8}{card["patients"][split]:>10}  {labels or "unlabelled"}')
    if prepared.names and card['unlabelled']:
        lines.append(f'without any label: {card["unlabelled"]} images')
    lines += [f'warning: {sentence}' for sentence in card['warnings']]
    lines.append(f'set aside: {card["quarantined"]} files (quarantine.csv)')
    where = name_of(prepared.directory)
    lines.append(f'prepared: {where}, fingerprint {prepared.fingerprint[:16]}')
    return '\n'.join(lines)


def _prepare_share(share: str, given: dict) -> int:
    """Prepare the share 'I/N' and tell of it; returns the exit code."""
    if given['beam_runner'] is not None:
        raise UserError('--shard and --beam_runner are two ways to share the work: choose one.')
    fields = ('dataset', 'source', 'data_dir', 'size', 'bits', 'name', 'options')
    what = Preparation(**{field: given[field] for field in fields})
    files, failed = prepare_share(what, parse_share(share), given['processes'])
    print(
        f'shard {share}: {files - len(failed)} of {files} files are prepared. When every shard '
        'is done, the same command without --shard puts the set together.'
    )
    return QUARANTINED if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--dataset', required=True, help=', '.join(DATASETS))
    parser.add_argument('--source', help='folder or URL of the raw files')
    parser.add_argument('--name', default='', help='of the prepared set, default: the dataset')
    parser.add_argument('--data_dir', required=True, help='folder or URL of the prepared sets')
    parser.add_argument('--size', type=int, default=256, help='pixels on a side')
    parser.add_argument('--bits', type=int, default=8, help='8 or 16 bits per pixel')
    parser.add_argument('--seed', type=int, default=0, help='of the splits and the phantoms')
    parser.add_argument(
        '--splits', choices=(GIVEN, DRAWN, NONE), default=GIVEN,
        help="given: as the source's splits.csv or the data set says, else drawn; none: all train",
    )  # fmt: skip
    parser.add_argument('--processes', type=int, help='default: one per core')
    parser.add_argument(
        '--options', nargs='*', action='extend', default=[], metavar='NAME=VALUE',
        help='of the reader',
    )  # fmt: skip
    parser.add_argument('--metadata', help='image_folder: csv, default <source>/metadata.csv')
    parser.add_argument(
        '--columns', metavar='NAME=COLUMN,...', help='image_folder: as file=image_id'
    )  # fmt: skip
    parser.add_argument('--images', type=int, default=1000, help='synthetic_cxr: how many')
    parser.add_argument('--shortcut', type=float, default=0.0, help='synthetic_cxr: 0 to 1')
    parser.add_argument('--shard', help='I/N: only this share of the files; see above')
    parser.add_argument('--beam_runner', help='such as DirectRunner; see above')
    arguments, others = parser.parse_known_args(argv)
    if others and arguments.beam_runner is None:
        parser.error(f'unrecognized arguments: {" ".join(others)}')
    given = vars(arguments)
    share = given.pop('shard')
    of_folder = {name: given.pop(name) for name in ('metadata', 'columns')}
    told = (f'{name}={value}' for name, value in of_folder.items() if value)
    given['options'] = (*given['options'], *told)
    try:
        if share is not None:
            return _prepare_share(share, given)
        prepared = prepare(**given, beam_options=others)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(_summary(prepared))
    return QUARANTINED if prepared.card['quarantined'] else 0


if __name__ == '__main__':
    sys.exit(main())
