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

from data_pipelines.auditing.findings import Findings, as_json, audit, of_one_set, sentences
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import CARD_FILE, PreparedSet, open_prepared
from data_pipelines.preparing import card as card_module

FOUND = 3


def open_sets(data_dir: Path, names: Sequence[str], size: int | None) -> list[PreparedSet]:
    """The sets, of this size; without one, of the largest that all of them have, or of the
    largest of each. UserError for what is missing."""
    sizes = {
        name: {
            int(card.parent.name.removesuffix('px'))
            for card in data_dir.glob(f'{name}/[0-9]*px/{CARD_FILE}')
        }
        for name in names
    }
    if not names or len(sizes) < len(names):
        raise UserError(
            f'--sets must name prepared sets, each once, such as nih14,mine; not {",".join(names)}.'
        )
    common = set.intersection(*sizes.values())
    chosen = {
        name: size or max(common or sizes[name], default=256) for name in names
    }  # fmt: skip
    return [open_prepared(data_dir, name, chosen[name]) for name in names]


def note_in_card(prepared: PreparedSet, found: dict) -> None:
    """Writes what was found into card.json and card.md."""
    card = prepared.card | {'audit': found}
    for name, text in (
        (CARD_FILE, json.dumps(card, indent=1)), ('card.md', card_module.markdown(card)),
    ):  # fmt: skip
        temporary = prepared.directory / f'.{name}.{os.getpid()}'
        temporary.write_text(text)
        os.replace(temporary, prepared.directory / name)


def _told(findings: Findings, report: dict) -> list[str]:
    lines = []
    for row in report['summary']:
        a, b = (f'{row[k]["set"]} {row[k]["split"]}' for k in 'ab')
        conflicts = f', {row["conflicts"]} with other labels' if row['conflicts'] else ''
        lines.append(f'{row["kind"]:8} {row["pairs"]:>7}  {a} - {b}{conflicts}')
    for number, prepared in enumerate(findings.images.sets):
        told = sentences(of_one_set(findings, number), len(prepared.index))
        lines += [f'{prepared.name}: {sentence}' for sentence in told or ['nothing was found.']]
    return lines


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
        sets = open_sets(Path(given.data_dir), given.sets.split(','), given.size)
        findings = audit(sets)
        report = as_json(findings)
        if given.json:
            try:
                Path(given.json).write_text(json.dumps(report, indent=1, ensure_ascii=True) + '\n')
            except OSError as error:
                raise UserError(
                    f'--json {given.json} cannot be written ({error.strerror}). Name a file in a '
                    'folder that exists and can be written to.'
                ) from None
        for number, prepared in enumerate(sets):
            if os.access(prepared.directory, os.W_OK):
                note_in_card(prepared, of_one_set(findings, number))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print('\n'.join(_told(findings, report)))
    return FOUND if given.strict and findings else 0


if __name__ == '__main__':
    sys.exit(main())
