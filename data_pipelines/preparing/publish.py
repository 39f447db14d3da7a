"""Put a prepared set in place: records, tables, picture and card, complete or not at all."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_pipelines.auditing.findings import count_reasons, doubts
from data_pipelines.auditing.stored import look_closely, save_looks, stacked
from data_pipelines.prepared import mask_store
from data_pipelines.prepared.data import CARD_FILE
from data_pipelines.prepared.index import INDEX_FILE
from data_pipelines.prepared.key_file import write_key_file
from data_pipelines.prepared.records import VERSION
from data_pipelines.preparing import card as card_module
from data_pipelines.preparing import contact_sheet
from data_pipelines.preparing.build import write_records
from data_pipelines.preparing.entry import Entry, make_index, make_record
from data_pipelines.preparing.identity import read_or_create_salt
from data_pipelines.preparing.ingest import IngestedImage
from data_pipelines.preparing.items import Preparation
from data_pipelines.storage import units

SHEET_FILE = 'contact_sheet.png'


def fingerprint(entries: Sequence[Entry], card: dict) -> str:
    """SHA-256 of settings and of each image's name, patient, split, labels, pixels and lung mask;
    without the salt, hence the same on every machine."""
    parts = [json.dumps([card[key] for key in ('dataset', 'size', 'bits', 'names', 'exclusive')])]
    parts += sorted(
        json.dumps([
            e.image, e.group, e.split, e.labels, e.source, e.meta['image_hash'],
            e.meta['mask_hash'],
        ])
        for e in entries
    )  # fmt: skip
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def copy_up(directory: Path) -> None:
    """Copies a prepared set to its URL, if it has one and is not there yet; UserError."""
    units.settle(directory, CARD_FILE, skip=(mask_store.FOLDER,))


def publish(
    what: Preparation,
    card: dict,
    entries: Sequence[Entry],
    quarantine: list[tuple[str, str]],
    read: Callable[[Entry], IngestedImage],
) -> None:
    """Complete the card and write it with records, index, tables and picture into a folder that
    then takes its final name.

    `read` gives an entry's prepared image; the entries are in the order in which they are stored.
    """
    names, salt = card['names'], read_or_create_salt(what.data_dir)
    card['fingerprint'] = fingerprint(entries, card)
    card |= card_module.describe(entries, names, card['exclusive'], what.bits)
    card['warnings'] = card_module.warnings(card)
    incomplete = what.directory.with_name(f'.{what.size}px.incomplete')
    shutil.rmtree(incomplete, ignore_errors=True)
    seen = {}

    def record(entry: Entry) -> dict:
        ingested = read(entry)
        seen[entry.image] = look_closely(ingested.image, entry.meta['original_size'])
        return make_record(entry, ingested, salt)

    built = write_records(incomplete, card, entries, record)
    index = make_index(entries, len(names), salt)
    index.save(built / INDEX_FILE)
    contact_sheet.draw(_examples(entries, names, read), built / SHEET_FILE)
    _write_csv(built / 'quarantine.csv', ('file', 'reason'), quarantine)
    shown = ['|'.join(card_module.shown_by(entry, names)) for entry in entries]
    table = zip(index.image_id, index.patient, shown, index.split, strict=True)
    _write_csv(built / 'splits.csv', ('image_id', 'patient', 'label', 'split'), table)
    looks = stacked(seen[entry.image] for entry in entries)
    save_looks(built, looks, card['fingerprint'])
    card['audit'] = {'reasons': count_reasons(doubts(looks, card['dataset']))}
    card_module.write_page(built / 'card.md', card)
    card['files'] = {
        str(path.relative_to(built)): path.stat().st_size
        for path in (built / INDEX_FILE, *(built / VERSION).iterdir())
    }
    (built / CARD_FILE).write_text(json.dumps(card, indent=1))
    write_key_file(
        what.directory, zip(index.image_id, (e.item.relative for e in entries), strict=True)
    )
    _keep_masks(what.directory, built, card['fingerprint'])
    shutil.rmtree(what.directory, ignore_errors=True)
    os.replace(built, what.directory)
    copy_up(what.directory)
    shutil.rmtree(incomplete)


def _keep_masks(former: Path, built: Path, fingerprint: str) -> None:
    """Sidecars of lung masks stay those of the same images."""
    masks = former / mask_store.FOLDER
    if not masks.is_dir():
        return
    with contextlib.suppress(OSError, ValueError, KeyError):  # of no set that could be used
        if json.loads((former / CARD_FILE).read_text())['fingerprint'] == fingerprint:
            os.replace(masks, built / mask_store.FOLDER)


def _examples(
    entries: Sequence[Entry], names: Sequence[str], read: Callable[[Entry], IngestedImage]
) -> list[tuple[str, list[tuple[Entry, IngestedImage]]]]:
    """(label, its first training images) of each label present, for the contact sheet."""
    rows = {name: [] for name in (*names, *card_module.OTHER_LABELS)}
    for entry in entries:
        for name in card_module.shown_by(entry, names) if entry.split == 'train' else ():
            if len(rows[name]) < contact_sheet.PER_LABEL:
                rows[name].append((entry, read(entry)))
    return [(name, row) for name, row in rows.items() if row]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    # Names of files may be no valid UTF-8.
    with path.open('w', newline='', encoding='utf-8', errors='surrogateescape') as file:
        csv.writer(file).writerows([header, *rows])
