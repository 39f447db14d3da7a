"""A prepared set on disk: its card, its index, its records."""

import dataclasses
import functools
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.datasets import DATASETS
from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus
from data_pipelines.prepared.index import INDEX_FILE, Index, load_index
from data_pipelines.prepared.mask_store import KeptMasks, MaskSet, open_masks
from data_pipelines.prepared.record_map import RecordMap, open_map
from data_pipelines.prepared.records import SPLIT, VERSION, decode, pixel_type
from data_pipelines.storage import places, units

CARD_FORMAT = 2
CARD_FILE = 'card.json'
SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedSet:
    """A finished prepared set, with its own lung masks or those of a sidecar."""

    directory: Path  # <data_dir>/<name>/<size>px
    name: str
    dataset: str  # the reader that listed its raw files
    size: int  # pixels on a side
    bits: int  # 8 or 16 per pixel
    names: tuple[str, ...]  # of the index's labels, () without labels
    exclusive: bool  # whether exactly one of the names is true for a labelled image
    index: Index = dataclasses.field(repr=False)
    fingerprint: str  # of settings, pixels, masks, labels and splits; the same on every machine
    card: dict = dataclasses.field(repr=False)
    masks: MaskSet | None = None
    channels: int = 1  # of an image: 3 in colour

    @property
    def data_dir(self) -> Path:
        return self.directory.parents[1]

    @property
    def rows(self) -> np.ndarray:
        """The stored rows that are available, ascending: all, or those whose mask was accepted."""
        return np.arange(len(self.index)) if self.masks is None else self.masks.rows

    def corpus(self, split: str | None = None) -> Corpus:
        """The available images of a split, or of all; UserError for a split there never is."""
        if split is None:
            return Corpus(((self, self.rows),))
        if split not in SPLITS:
            raise UserError(f'There is no split {split!r}, only {", ".join(SPLITS)}.')
        return Corpus(((self, self.rows[self.index.split[self.rows] == split]),))

    def with_masks(self, name: str) -> 'PreparedSet':
        """The images whose lung mask in the sidecar `name` was accepted, with these masks."""
        masks = open_masks(self, name)
        n = len(self.index)
        has_mask, lung_sums = np.zeros(n, bool), np.zeros((n, 3), np.int64)
        content = np.zeros(n, masks.content.dtype)
        has_mask[masks.rows], lung_sums[masks.rows] = True, masks.lung_sums
        content[masks.rows] = masks.content
        both = f'{self.card["fingerprint"]} {masks.card["fingerprint"]}'
        return dataclasses.replace(
            self,
            index=dataclasses.replace(
                self.index, has_mask=has_mask, lung_sums=lung_sums, mask_content=content
            ),
            fingerprint=hashlib.sha256(both.encode()).hexdigest(),
            masks=masks,
        )

    def read(self, rows: Sequence[int], fields: Sequence[str]) -> list[dict]:
        """Fields (records.FIELDS) of the records of these stored rows; thread-safe."""
        rows = np.asarray(rows, np.int64)
        pixels = self.empty(len(rows), fields)
        self.read_into(pixels, rows, np.arange(len(rows)))
        rest = [name for name in fields if name not in pixels]
        stored = self._map.others(rows) if rest else [{}] * len(rows)
        records = [decode(each, rest, self.size) for each in stored]
        for number, record in enumerate(records):
            record |= {name: values[number] for name, values in pixels.items()}
            if self.masks is not None and 'has_lung_mask' in record:
                record['has_lung_mask'] = True
        return records

    def empty(self, n: int, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Room for `n` images, with those of `fields` that are pixels: [n, R, R, C]."""
        kinds = {'image': (self.channels, pixel_type(self.bits)), 'lung_mask': (1, np.uint8)}
        return {
            name: np.empty((n, self.size, self.size, channels), dtype)
            for name, (channels, dtype) in kinds.items()
            if name in fields
        }

    def read_into(self, arrays: dict[str, np.ndarray], rows: np.ndarray, at: np.ndarray) -> None:
        """Put the pixels of these stored rows at `at` of arrays as `empty` makes them."""
        if 'image' in arrays:
            self._map.images(rows, arrays['image'], at)
        if 'lung_mask' in arrays:
            for row, place in zip(rows.tolist(), at.tolist(), strict=True):
                self._lungs.copy(row, arrays['lung_mask'][place])

    def map_records(self) -> RecordMap:
        """The record files, mapped; the first call for a set finds out where its pixels lie."""
        return self._map

    @functools.cached_property
    def _map(self) -> RecordMap:
        builder = tfds.builder_from_directory(str(self.directory / VERSION))
        files = builder.info.splits[SPLIT].file_instructions
        image_bytes = self.empty(1, ('image',))['image'].nbytes
        return open_map(self.directory, files, self.card['fingerprint'], image_bytes)

    @functools.cached_property
    def _lungs(self) -> KeptMasks:
        unpack = self._stored_mask if self.masks is None else self.masks.mask
        return KeptMasks(len(self.index), self.size, unpack)

    def _stored_mask(self, row: int) -> np.ndarray:
        (stored,) = self._map.others(np.array([row]))
        return decode(stored, ('lung_mask',), self.size)['lung_mask']


def open_prepared(data_dir: str | Path, name: str, size: int, masks: str = '') -> PreparedSet:
    """Open <data_dir>/<name>/<size>px; a UserError says how to prepare what is missing.

    `masks` names a sidecar of lung masks (mask_store) that stand for the stored ones; '' = none.
    """
    folder = places.local(data_dir)
    directory = folder / name / f'{size}px'
    units.pull(directory, CARD_FILE)
    if not (directory / CARD_FILE).is_file():
        raise UserError(
            f'{places.name_of(directory)} holds no prepared set. {_what_there_is(folder)} Prepare '
            f'it with: {_command(data_dir, name, size)}'
        )
    card = json.loads((directory / CARD_FILE).read_text())
    damage, index = _damage(directory, card), None
    if not damage:
        try:
            index = load_index(directory / INDEX_FILE)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            damage = f'{INDEX_FILE} cannot be read ({error})'
    if damage:
        command = _command(data_dir, name, size, card.get('dataset', ''))
        raise UserError(
            f'The prepared set in {directory} cannot be used: {damage}. Delete the folder and '
            f'prepare it again with: {command}'
        )
    prepared = PreparedSet(
        directory=directory,
        name=name,
        names=tuple(card['names']),
        index=index,
        card=card,
        channels=card.get('channels', 1),  # cards of before colour do not tell
        **{key: card[key] for key in ('dataset', 'size', 'bits', 'exclusive', 'fingerprint')},
    )
    return prepared.with_masks(masks) if masks else prepared


def _command(data_dir: str | Path, name: str, size: int, dataset: str = '') -> str:
    dataset = dataset or (name if name in DATASETS else 'image_folder')
    named = '' if name == dataset else f'--name {name} '
    source = '' if dataset == 'synthetic_cxr' else '--source <folder of the raw files> '
    return (
        f'python -m data_pipelines.prepare --dataset {dataset} {named}{source}'
        f'--data_dir {data_dir} --size {size}'
    )


def _what_there_is(data_dir: Path) -> str:
    cards = {path.relative_to(data_dir) for path in data_dir.glob(f'*/[0-9]*px/{CARD_FILE}')}
    sizes = {}
    for path in sorted(cards | units.find(data_dir, f'*/[0-9]*px/{CARD_FILE}')):
        size = int(path.parent.name.removesuffix('px'))
        sizes.setdefault(path.parents[1].name, []).append(size)
    found = ', '.join(f'{name} ({", ".join(map(str, sorted(of)))})' for name, of in sizes.items())
    where = places.name_of(data_dir)
    return f'There are, with their sizes: {found}.' if found else f'{where} holds no other.'


def _damage(directory: Path, card: dict) -> str:
    """Why the card and the records do not belong together; '' when they do."""
    if card.get('format') != CARD_FORMAT:
        return f'its card has the format {card.get("format")}, this code needs {CARD_FORMAT}'
    for name, size in card['files'].items():
        path = directory / name
        if not path.is_file():
            return f'{name} is missing'
        if path.stat().st_size != size:
            return f'{name} has {path.stat().st_size} bytes instead of {size}'
    info = json.loads((directory / VERSION / 'dataset_info.json').read_text())
    if card['fingerprint'] not in info['description']:
        return 'card.json and the records are of different preparations'
    return ''
