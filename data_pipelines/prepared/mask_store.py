"""Lung masks beside a prepared set, <prepared dir>/masks/<name>/: the files, and how to read them.

    masks.npz      accepted masks, in stored order of the records: image_ids [N], splits [N],
                   rows [N] (record numbers), starts [N + 1] into `packed`: each mask's bits,
                   row by row, zlib-compressed
    rejected.csv   image_id, split, reason
    card.json      what made them, for which prepared set, counts, statistics, settings
    contact_sheet.png
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.prepared.data import PreparedData

FORMAT = 1
FOLDER, CARD_FILE, MASKS_FILE, REJECTED_FILE = 'masks', 'card.json', 'masks.npz', 'rejected.csv'


@dataclass(frozen=True)
class MaskSet:
    """The accepted masks of a sidecar; `rows` are their record numbers per split, ascending."""

    name: str
    card: dict
    rows: dict[str, np.ndarray]
    packed: dict[str, bytes] = field(repr=False)  # image_id -> compressed bits

    def mask(self, image_id: str) -> np.ndarray:
        """The lung mask of an accepted image, uint8 0/1 [R, R, 1]."""
        size = self.card['size']
        bits = np.frombuffer(zlib.decompress(self.packed[image_id]), np.uint8)
        return np.unpackbits(bits, count=size * size).reshape(size, size, 1)


def pack(mask: np.ndarray) -> bytes:
    """A mask [R, R] as MaskSet keeps it."""
    return zlib.compress(np.packbits(mask > 0).tobytes(), 9)


def content_hash(prepared_fingerprint: str, accepted: Iterable[tuple[str, int, bytes]]) -> str:
    """SHA-256 of a sidecar's (split, row, packed mask), the same wherever the set is prepared."""
    digest = hashlib.sha256(prepared_fingerprint.encode())
    for split, row, packed in accepted:
        digest.update(f'{split} {row}'.encode() + zlib.decompress(packed))
    return digest.hexdigest()


def save(path: Path, accepted: list[tuple[str, str, int, bytes]]) -> None:
    """Writes masks.npz from (image_id, split, row, packed mask) in stored order."""
    ids, splits, rows, packed = zip(*accepted, strict=True)
    np.savez(
        path,
        image_ids=np.array(ids),
        splits=np.array(splits),
        rows=np.array(rows, np.int64),
        starts=np.cumsum([0, *map(len, packed)]),
        packed=np.frombuffer(b''.join(packed), np.uint8),
    )


def open_masks(prepared: 'PreparedData', name: str) -> MaskSet:
    """The sidecar `name` of a prepared set; UserError with the command that makes it."""
    folder = prepared.directory / FOLDER / name
    command = apply_command(prepared, name)
    if not (folder / CARD_FILE).is_file():
        found = sorted(p.parent.name for p in folder.parent.glob(f'[!.]*/{CARD_FILE}'))
        exist = f' Masks there: {", ".join(found)}.' if found else ''
        raise UserError(
            f'{prepared.directory} has no lung masks named {name!r}.{exist} Make them with: '
            f'{command}'
        )
    card = json.loads((folder / CARD_FILE).read_text())
    if card.get('format') != FORMAT or card.get('data') != prepared.card['fingerprint']:
        raise UserError(
            f'The lung masks in {folder} were made for another preparation of this data set. Make '
            f'them again with: {command}'
        )
    try:
        with np.load(folder / MASKS_FILE) as stored:
            fields = {key: stored[key] for key in stored.files}
        ids, splits, rows, starts = (fields[k] for k in ('image_ids', 'splits', 'rows', 'starts'))
        blob = fields['packed'].tobytes()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f'{folder / MASKS_FILE} cannot be read ({error}). Make the masks again with: {command}'
        ) from None
    return MaskSet(
        name=name,
        card=card,
        rows={split: rows[splits == split] for split in prepared.card['counts']},
        packed={
            str(image_id): blob[starts[i] : starts[i + 1]] for i, image_id in enumerate(ids)
        },
    )


def apply_command(prepared: 'PreparedData', name: str) -> str:
    """The command that makes the sidecar `name`."""
    return (
        'python -m cxr_jax.segment apply --config configs/segment.py '
        f'--config.data.dir={prepared.directory.parents[1]} --config.data.name={prepared.name} '
        f'--config.data.size={prepared.size} --name {name} --segmenter runs/segment-synthetic_cxr'
    )
