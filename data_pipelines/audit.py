"""Audit prepared sets of one data folder before anything trains on them.

    python -m data_pipelines.audit --data_dir ~/prepared --sets nih14,mine --json audit.json

It finds exact and near copies within and across sets and splits, persons and studies that are in
several of them, copies with contradicting labels, and images that are no frontal chest radiographs
or poor ones. What concerns one set alone goes onto its card, and so into the reports of runs.

Exit codes: 0 done, 2 a mistake to correct (told on stderr), 3 with --strict: something was found.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.auditing.findings import as_json, audit, of_one_set, sentences
from data_pipelines.errors import UserError
from data_pipelines.files import NAME, replacing
from data_pipelines.prepared.data import CARD_FILE, PreparedSet, open_prepared
from data_pipelines.preparing import card as card_module
from data_pipelines.preparing.publish import copy_up
from data_pipelines.storage import units
from data_pipelines.storage.places import local

FOUND = 3


def open_sets(data_dir: Path, names: Sequence[str], size: int | None) -> list[PreparedSet]:
    """The sets, of this size; without one, of the largest that all of them have, or of the
    largest of each. UserError for what is missing."""
    if len(set(names)) < len(names) or not all(map(NAME.fullmatch, names)):
        raise UserError(
            f'--sets must name prepared sets, each once, such as nih14,mine; not {",".join(names)}.'
        )
    sizes = {name: _sizes(data_dir, name) for name in names}
    common = set.intersection(*sizes.values())
    chosen = {
        name: max(common or sizes[name], default=256) if size is None else size for name in names
    }
    return [open_prepared(data_dir, name, chosen[name]) for name in names]


def _sizes(data_dir: Path, name: str) -> set[int]:
    """Of the prepared sets of this name, here or at the URL of `data_dir`."""
    here = {card.relative_to(data_dir) for card in data_dir.glob(f'{name}/*px/{CARD_FILE}')}
    there = units.find(data_dir, f'{name}/*px/{CARD_FILE}')
    folders = {path.parts[-2].removesuffix('px') for path in here | there}
    return {int(folder) for folder in folders if folder.isdecimal()}


def note_in_card(prepared: PreparedSet, found: dict) -> None:
    """Writes what was found into card.json and card.md."""
    card, directory = prepared.card | {'audit': found}, prepared.directory
    units.unsettle(directory)
    with replacing(directory / CARD_FILE) as new:
        new.write_text(json.dumps(card, indent=1))
    with replacing(directory / 'card.md') as new:
        card_module.write_page(new, card)
    copy_up(directory)


def _told(report: dict, of_sets: Sequence[tuple[PreparedSet, dict]]) -> list[str]:
    lines = []
    for row in report['summary']:
        a, b = (f'{row[k]["set"]} {row[k]["split"]}' for k in 'ab')
        conflicts = f', {row["conflicts"]} with other labels' if row['conflicts'] else ''
        lines.append(f'{row["kind"]:8} {row["pairs"]:>7}  {a} - {b}{conflicts}')
    for prepared, found in of_sets:
        told = sentences(found, len(prepared.index))
        lines += [f'{prepared.name}: {sentence}' for sentence in told or ['nothing was found.']]
    return lines


def _write_private(path: Path, text: str) -> None:
    """Raw names of files are for their owner alone."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, 'w') as file:
        file.write(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data_dir', required=True, help='where prepared sets are kept')
    parser.add_argument('--sets', required=True, help='names of prepared sets: A,B')
    parser.add_argument('--size', type=int, help='pixels on a side, default: what the sets have')
    parser.add_argument('--json', help='file for all that was found')
    parser.add_argument('--strict', action='store_true', help='exit with 3 if anything was found')
    given = parser.parse_args(argv)
    try:
        sets = open_sets(local(given.data_dir), given.sets.split(','), given.size)
        findings = audit(sets)
        report = as_json(findings)
        if given.json:
            try:
                _write_private(Path(given.json), json.dumps(report, indent=1) + '\n')
            except OSError as error:
                raise UserError(
                    f'--json {given.json} cannot be written ({error.strerror}). Name a file in a '
                    'folder that exists and can be written to.'
                ) from None
        of_sets = [(prepared, of_one_set(findings, k)) for k, prepared in enumerate(sets)]
        for prepared, found in of_sets:
            if os.access(prepared.directory, os.W_OK):
                note_in_card(prepared, found)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print('\n'.join(_told(report, of_sets)))
    return FOUND if given.strict and findings else 0


if __name__ == '__main__':
    sys.exit(main())
