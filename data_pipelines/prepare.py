"""Prepare a data set: raw radiographs -> TFDS records in ArrayRecord files, with a data card.

    python -m data_pipelines.prepare --dataset siim_covid19 --source ~/siim --data_dir ~/prepared

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
from dataclasses import replace
from pathlib import Path

from data_pipelines.datasets import DATASETS, synthetic_cxr
from data_pipelines.datasets.base import Listing
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import CARD_FORMAT, PreparedData, open_prepared
from data_pipelines.prepared.records import Entry
from data_pipelines.preparing import beam, ingest
from data_pipelines.preparing.identity import digest, pseudonym, read_or_create_salt
from data_pipelines.preparing.items import (
    cache_folder,
    checked_processes,
    decode,
    list_items,
    make_tasks,
    missing,
    parse_share,
    prepare_share,
)
from data_pipelines.preparing.publish import publish
from data_pipelines.preparing.splits import SPLITS, assign_splits, read_splits

QUARANTINED = 3


def prepare(
    dataset: str,
    source: str | Path | None,
    data_dir: str | Path,
    size: int = 256,
    bits: int = 8,
    seed: int = 0,
    processes: int | None = None,
    metadata: str | Path | None = None,
    images: int = 1000,
    shortcut: float = 0.0,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> PreparedData:
    """Prepare <data_dir>/<dataset>/<size>px, or open it if it is up to date.

    `metadata` is for image_folder only; `images` and `shortcut` are for synthetic_cxr only, whose
    raw files are generated into `source` first (default <data_dir>/synthetic_cxr/raw). Raises
    UserError. The number of files set aside is card['quarantined'].
    """
    processes = checked_processes(size, bits, processes)
    data_dir = Path(data_dir)
    if dataset == 'synthetic_cxr':
        source = Path(source or data_dir / dataset / 'raw')
        synthetic_cxr.generate_raw(source, images, seed, shortcut, processes)
    listing = list_items(dataset, source, metadata)
    source = Path(source)

    salt = read_or_create_salt(data_dir)
    origin = {
        'inputs': _inputs_digest(listing, source, size, bits, seed),
        'source_id': pseudonym(salt, digest('source', str(source.resolve()))),
    }
    existing = _up_to_date(data_dir, dataset, size, origin)
    if existing is not None:
        return existing
    tasks = make_tasks(listing, data_dir, dataset, size, bits)
    if beam_runner is not None:
        beam.prepare_files(missing(tasks.values()), beam_runner, beam_options)
    failed = decode(missing(tasks.values()), processes)
    entries = [
        Entry(item, ingest.load_meta(tasks[item.relative].result))
        for item in listing.items
        if item.relative not in failed
    ]
    # Hashed names give an order that is random, yet the same on every machine.
    entries.sort(key=lambda entry: entry.image)
    quarantine = sorted([*listing.rejected, *failed.items()])
    card = origin | {
        'format': CARD_FORMAT, 'dataset': dataset, 'size': size, 'bits': bits,
        'classes': list(listing.classes), 'split_seed': seed,
        'split_origin': _split(entries, source, seed, quarantine),
        'quarantined': len(quarantine), 'notes': listing.notes,
    }  # fmt: skip
    publish(data_dir, card, entries, quarantine, tasks, salt)
    cache = cache_folder(data_dir, dataset, size)
    for leftover in set(cache.iterdir()) - {task.result for task in tasks.values()}:
        # Another machine may be writing a share still; such files are small and few.
        if leftover.suffix != '.tmp':
            leftover.unlink(missing_ok=True)
    return open_prepared(data_dir, dataset, size)


def _inputs_digest(listing: Listing, source: Path, size: int, bits: int, seed: int) -> str:
    """Changes when anything changes that the prepared set depends on."""
    table = source / 'splits.csv'
    parts = [
        (size, bits, seed, ingest.DECODER_VERSION, CARD_FORMAT, listing.classes),
        table.read_bytes() if table.is_file() else b'',
        *listing.rejected,
        *sorted(
            (
                repr(replace(item, path=None, lung_mask=None)),
                ingest.file_state(item.path),
                ingest.file_state(item.lung_mask),
            )
            for item in listing.items
        ),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _up_to_date(data_dir: Path, dataset: str, size: int, origin: dict) -> PreparedData | None:
    try:
        existing = open_prepared(data_dir, dataset, size)
    except UserError:
        return None  # none, or not usable: it is prepared anew
    if existing.card['inputs'] == origin['inputs']:
        return existing
    if existing.card['source_id'] != origin['source_id']:
        raise UserError(
            f'{existing.directory} was prepared from another source folder. Choose another '
            '--data_dir, or delete that folder if it is no longer needed.'
        )
    return None


def _split(
    entries: Sequence[Entry],
    source: Path,
    seed: int,
    quarantine: list[tuple[str, str]],
) -> str:
    """Give every entry its split; returns where the splits come from. Raises UserError."""
    reasons = '; '.join(f'{path}: {reason}' for path, reason in quarantine[:3])
    seen = f' {len(quarantine)} files were set aside ({reasons}).' if quarantine else ''
    if not entries:
        raise UserError(f'No image of {source} can be used.{seen}')
    table = source / 'splits.csv'
    if table.is_file():
        given = {digest('patient', raw): split for raw, split in read_splits(table).items()}
        unknown = sum(entry.patient not in given for entry in entries)
        if unknown:
            raise UserError(
                f'{table} does not name the patients of {unknown} of {len(entries)} images. '
                'Complete it, or delete it to have the splits drawn.'
            )
        origin = "given by the source's splits.csv"
    else:
        given = assign_splits(
            [entry.group for entry in entries], [entry.item.label for entry in entries], seed
        )
        unit = 'patient' if all(entry.patient for entry in entries) else 'patient where known'
        origin = f'drawn by {unit}, 70/10/20, stratified by class, seed {seed}'
    for entry in entries:
        entry.split = given[entry.patient if table.is_file() else entry.group]
    absent = [name for name in SPLITS if all(entry.split != name for entry in entries)]
    if absent:
        raise UserError(
            f'The images of {source} leave the splits {absent} empty; at least three patients '
            'of one class are needed.'
        )
    return origin


def _summary(prepared: PreparedData) -> str:
    card = prepared.card
    lines = [f'{"split":12}{"images":>8}{"patients":>10}  images per class']
    for split, n in prepared.counts.items():
        classes = ', '.join(
            f'{name} {count}'
            for name, count in zip(prepared.classes, prepared.class_counts[split], strict=True)
        )
        lines.append(f'{split:12}{n:>8}{card["patients"][split]:>10}  {classes or "unlabelled"}')
    lines += [f'warning: {sentence}' for sentence in card['warnings']]
    lines.append(f'set aside: {card["quarantined"]} files (quarantine.csv)')
    lines.append(f'prepared: {prepared.directory}, fingerprint {prepared.fingerprint[:16]}')
    return '\n'.join(lines)


def _prepare_share(share: str, given: dict) -> int:
    """Prepare the share 'I/N' and tell of it; returns the exit code."""
    names = ('dataset', 'source', 'data_dir', 'size', 'bits', 'processes', 'metadata')
    if given['beam_runner'] is not None:
        raise UserError('--shard and --beam_runner are two ways to share the work: choose one.')
    files, failed = prepare_share(parse_share(share), **{name: given[name] for name in names})
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
    parser.add_argument('--source', help='folder of the raw files')
    parser.add_argument('--data_dir', required=True, help='where prepared sets are kept')
    parser.add_argument('--size', type=int, default=256, help='pixels on a side')
    parser.add_argument('--bits', type=int, default=8, help='8 or 16 bits per pixel')
    parser.add_argument('--seed', type=int, default=0, help='of the splits and the phantoms')
    parser.add_argument('--processes', type=int, help='default: one per core')
    parser.add_argument('--metadata', help='image_folder: csv, default <source>/metadata.csv')
    parser.add_argument('--images', type=int, default=1000, help='synthetic_cxr: how many')
    parser.add_argument('--shortcut', type=float, default=0.0, help='synthetic_cxr: 0 to 1')
    parser.add_argument('--shard', help='I/N: only this share of the files; see above')
    parser.add_argument('--beam_runner', help='such as DirectRunner; see above')
    arguments, others = parser.parse_known_args(argv)
    if others and arguments.beam_runner is None:
        parser.error(f'unrecognized arguments: {" ".join(others)}')
    given = vars(arguments)
    share = given.pop('shard')
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
