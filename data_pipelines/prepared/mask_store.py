"""Lung masks beside a prepared set, <prepared dir>/masks/<name>/: the files, and how to read them.

    masks.npz      accepted masks in stored order: image_id [N], rows [N] (stored rows), content
                   [N] and lung_sums [N, 3] (mask_content and lung_sums of index.Index), starts
                   [N + 1] into `packed`: each mask's bits, row by row, zlib-compressed
    rejected.csv   image_id, split, reason
    card.json      what made them, for which prepared set, counts, settings
    contact_sheet.png
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.storage import places, units

if TYPE_CHECKING:
    from data_pipelines.prepared.data import PreparedSet

FORMAT = 2
# Up to 262,144 masks of 256 px.
KEEP_BYTES = 2 * 2**30
FOLDER, CARD_FILE, MASKS_FILE, REJECTED_FILE = 'masks', 'card.json', 'masks.npz', 'rejected.csv'


@dataclass(frozen=True, eq=False)
class MaskSet:
    """The accepted masks of a sidecar, of the stored rows `rows`, ascending."""

    name: str
    card: dict
    rows: np.ndarray  # int64 [N]
    content: np.ndarray  # str [N]
    lung_sums: np.ndarray  # int64 [N, 3]
    starts: np.ndarray = field(repr=False)
    packed: bytes = field(repr=False)

    def mask(self, row: int) -> np.ndarray:
        """The lung mask of an accepted stored row, uint8 0/1 [R, R, 1]."""
        size, k = self.card['size'], int(np.searchsorted(self.rows, row))
        packed = self.packed[self.starts[k] : self.starts[k + 1]]
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        return np.unpackbits(bits, count=size * size).reshape(size, size, 1)


class KeptMasks:
    """Masks by stored row, kept in memory as bits once unpacked, if those of all rows fit."""

    def __init__(self, n: int, size: int, unpack: Callable[[int], np.ndarray]):
        """`unpack` gives the mask of a row, uint8 0/1 [R, R, 1]."""
        self._unpack, self._count = unpack, size * size
        self._bits = None
        if n * -(-self._count // 8) <= KEEP_BYTES:
            self._bits = np.zeros((n, -(-self._count // 8)), np.uint8)
        self._present = np.zeros(n, bool)

    def copy(self, row: int, out: np.ndarray) -> None:
        """Fills `out`, uint8 [R, R, 1], with the mask of this row; thread-safe."""
        if self._present[row]:
            out.reshape(-1)[:] = np.unpackbits(self._bits[row], count=self._count)
            return
        out[...] = self._unpack(row)
        if self._bits is not None:
            self._bits[row] = np.packbits(out)
            # Last, so that another thread unpacks a mask itself rather than read half of it.
            self._present[row] = True


@dataclass(frozen=True)
class Accepted:
    """A mask on its way into a sidecar."""

    image_id: str
    row: int
    content: str
    lung_sums: tuple[int, int, int]
    packed: bytes


def pack(mask: np.ndarray) -> bytes:
    """A mask [R, R] as MaskSet keeps it."""
    return zlib.compress(np.packbits(mask > 0).tobytes(), 9)


def mask_content(mask: np.ndarray) -> str:
    """The index's mask_content of a mask, uint8 0/1 [R, R]."""
    return hashlib.sha256(np.ascontiguousarray(mask, np.uint8).tobytes()).hexdigest()[:32]


def content_hash(prepared_fingerprint: str, accepted: Sequence[Accepted]) -> str:
    """SHA-256 of a sidecar's rows and masks, the same wherever the set is prepared."""
    digest = hashlib.sha256(prepared_fingerprint.encode())
    for each in accepted:
        digest.update(f'{each.row} {each.content}'.encode())
    return digest.hexdigest()


def save(path: Path, accepted: Sequence[Accepted]) -> None:
    """Writes masks.npz, in stored order."""
    np.savez(
        path,
        image_id=np.char.encode([each.image_id for each in accepted], 'ascii'),
        rows=np.array([each.row for each in accepted], np.int64),
        content=np.char.encode([each.content for each in accepted], 'ascii'),
        lung_sums=np.array([each.lung_sums for each in accepted], np.int64),
        starts=np.cumsum([0, *(len(each.packed) for each in accepted)]),
        packed=np.frombuffer(b''.join(each.packed for each in accepted), np.uint8),
    )


def open_masks(prepared: 'PreparedSet', name: str) -> MaskSet:
    """The sidecar `name` of a prepared set; UserError with the command that makes it."""
    folder = prepared.directory / FOLDER / name
    command = apply_command(prepared, name)
    units.pull(folder, CARD_FILE)
    if not (folder / CARD_FILE).is_file():
        there = units.find(folder.parent, f'*/{CARD_FILE}')
        here = folder.parent.glob(f'[!.]*/{CARD_FILE}')
        found = sorted({path.parent.name for path in (*here, *there)})
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
        with np.load(folder / MASKS_FILE, allow_pickle=False) as stored:
            return MaskSet(
                name=name,
                card=card,
                content=np.char.decode(stored['content'], 'ascii'),
                packed=stored['packed'].tobytes(),
                **{key: stored[key] for key in ('rows', 'lung_sums', 'starts')},
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f'{folder / MASKS_FILE} cannot be read ({error}). Make the masks again with: {command}'
        ) from None


def apply_command(prepared: 'PreparedSet', name: str) -> str:
    """The command that makes the sidecar `name`."""
    return (
        'python -m cxr_jax.segment apply --config configs/segment.py '
        f'--config.data.dir={places.name_of(prepared.data_dir)} '
        f'--config.data.name={prepared.name} '
        f'--config.data.size={prepared.size} --name {name} --segmenter runs/segment-synthetic_cxr'
    )
