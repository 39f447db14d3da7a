"""Put a prepared set in place: records, tables, picture and card, complete or not at all."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_pipelines.prepared.data import CARD_FILE
from data_pipelines.prepared.records import VERSION, Entry, make_record
from data_pipelines.preparing import card as card_module
from data_pipelines.preparing import contact_sheet, ingest
from data_pipelines.preparing.build import write_records
from data_pipelines.preparing.identity import pseudonym
from data_pipelines.preparing.splits import SPLITS

SHEET_FILE = 'contact_sheet.png'


def fingerprint(entries: Sequence[Entry], card: dict) -> str:
    """SHA-256 of settings and of each image's name, split, label, pixels and lung mask; without
    the salt, hence the same on every machine."""
    parts = [json.dumps([card[name] for name in ('dataset', 'size', 'bits', 'classes')])]
    parts += sorted(
        json.dumps([e.image, e.split, e.item.label, e.meta['image_hash'], e.meta['mask_hash']])
        for e in entries
    )
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def publish(
    data_dir: Path,
    card: dict,
    entries: Sequence[Entry],
    quarantine: list[tuple[str, str]],
    tasks: dict[str, ingest.Task],
    salt: bytes,
) -> None:
    """Complete the card and write it with records, tables and picture into a folder that then
    takes its final name.

    `tasks` {relative path: task} tell where the prepared images lie; entries are in the order in
    which they are to be stored.
    """
    card['fingerprint'] = fingerprint(entries, card)
    card |= card_module.describe(entries, card['classes'], card['bits'])
    card['warnings'] = card_module.warnings(card)
    dataset, size = card['dataset'], card['size']
    incomplete = data_dir / dataset / f'.{size}px.incomplete'
    shutil.rmtree(incomplete, ignore_errors=True)

    def read(entry: Entry) -> ingest.Prepared:
        return ingest.load(tasks[entry.item.relative].result)

    splits = {name: [e for e in entries if e.split == name] for name in SPLITS}
    built = write_records(
        incomplete, dataset, size, card['bits'], card['fingerprint'], splits,
        lambda entry: make_record(entry, read(entry), salt),
    )  # fmt: skip
    contact_sheet.draw(_examples(splits['train'], card['classes'], read), built / SHEET_FILE)
    _write_csv(built / 'quarantine.csv', ('file', 'reason'), quarantine)
    table = [
        (
            pseudonym(salt, entry.image), pseudonym(salt, entry.patient) if entry.patient else '',
            card_module.class_name(entry, card['classes']), entry.split,
        )
        for entry in entries
    ]  # fmt: skip
    _write_csv(built / 'splits.csv', ('image_id', 'patient', 'label', 'split'), table)
    (built / 'card.md').write_text(card_module.markdown(card))
    card['files'] = {path.name: path.stat().st_size for path in (built / VERSION).iterdir()}
    (built / CARD_FILE).write_text(json.dumps(card, indent=1))
    final = data_dir / dataset / f'{size}px'
    shutil.rmtree(final, ignore_errors=True)
    os.replace(built, final)
    shutil.rmtree(incomplete)


def _examples(
    entries: Sequence[Entry], classes: Sequence[str], read: Callable[[Entry], ingest.Prepared]
) -> list[tuple[str, list[tuple[Entry, ingest.Prepared]]]]:
    """(class, its first images) of each class present, for the contact sheet."""
    rows = {name: [] for name in (*classes, 'unlabelled')}
    for entry in entries:
        row = rows[card_module.class_name(entry, classes)]
        if len(row) < contact_sheet.PER_CLASS:
            row.append((entry, read(entry)))
    return [(name, row) for name, row in rows.items() if row]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([header, *rows])
