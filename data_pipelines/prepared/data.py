"""A prepared set on disk: what it holds, which of its records are used, how they are read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.datasets import DATASETS
from data_pipelines.errors import UserError
from data_pipelines.prepared.mask_store import MaskSet, open_masks
from data_pipelines.prepared.records import VERSION, SerializedRecords, decode

CARD_FORMAT = 1
CARD_FILE = 'card.json'


@dataclass(frozen=True)
class PreparedData:
    """A finished prepared set. `classes` is () and `class_counts` are [] without labels.

    `statistics` {region: {'mean', 'std'}} are of the train split's pixels, scaled to [0, 1].
    """

    directory: Path
    name: str
    size: int
    bits: int
    classes: tuple[str, ...]
    counts: dict[str, int]
    class_counts: dict[str, list[int]]
    fingerprint: str
    has_patient_ids: bool
    has_lung_masks: bool
    statistics: dict[str, dict[str, float]]
    card: dict
    # Numbers of the records that are used, per split (None: all), and the label that each of the
    # stored labels becomes (None: itself; -1: unlabelled).
    rows: dict[str, np.ndarray] | None = None
    labels: tuple[int, ...] | None = None
    # Lung masks that stand for the stored ones (None: the stored ones).
    masks: MaskSet | None = None
    # Whether `rows` count through all stored splits, one after the other.
    pooled: bool = False

    def contract(self, region: str = 'full') -> dict:
        """What a network trained on this input must be given later: see design section 6."""
        if region not in self.statistics:
            raise UserError(
                f'{self.directory} has no region {region!r}, only {sorted(self.statistics)}: '
                'lung regions need a lung mask for every image.'
            )
        return {
            'channels': 1, 'size': self.size, 'bits': self.bits, 'region': region,
            **self.statistics[region],
        }  # fmt: skip

    def count(self, split: str) -> int:
        """Images of a split that are used; UserError if there is no such split."""
        if split not in self.counts:
            raise UserError(f'There is no split {split!r}, only {list(self.counts)}.')
        return self.counts[split]

    def of_classes(self, classes: Sequence[str]) -> 'PreparedData':
        """The images of these classes alone, in this order of the classes, in every split."""
        unknown = [name for name in classes if name not in self.classes]
        if unknown or len(set(classes)) < max(len(classes), 2):
            raise UserError(
                f'The classes {", ".join(classes)} cannot be chosen: name two or more different '
                f'ones of {", ".join(self.classes) or "none (the data has no labels)"}.'
            )
        chosen = [self.classes.index(name) for name in classes]
        # Of every stored label: an earlier choice may have renumbered them.
        before = self.labels or range(len(self.classes))
        labels = tuple(chosen.index(k) if k in chosen else -1 for k in before)
        rows = {}
        for split in self.counts:
            stored = Records(self, split, ('label',)).column('label')
            rows[split] = self._rows(split)[np.isin(stored, chosen)]
        counts = [[row[k] for k in chosen] for row in self.class_counts.values()]
        return self._restricted(
            rows,
            classes=tuple(classes),
            labels=labels,
            class_counts=dict(zip(self.class_counts, counts, strict=True)),
        )

    def share(self, fraction: float, seed: int) -> 'PreparedData':
        """A random `fraction` of the training images; the other splits stay whole."""
        rows = {split: self._rows(split) for split in self.counts}
        order = np.random.default_rng(seed).permutation(len(rows['train']))
        kept = order[: max(round(fraction * len(order)), 1)]
        rows['train'] = rows['train'][np.sort(kept)]
        if self.classes:
            labels = Records(replace(self, rows=rows), 'train', ('label',)).column('label')
            counts = [int((labels == k).sum()) for k in range(len(self.classes))]
            return self._restricted(rows, class_counts=self.class_counts | {'train': counts})
        return self._restricted(rows)

    def with_masks(self, name: str) -> 'PreparedData':
        """The images whose lung mask in the sidecar `name` was accepted, with these masks."""
        masks = open_masks(self, name)
        content = f'{self.fingerprint} {masks.card["fingerprint"]}'
        whole = replace(self, fingerprint=hashlib.sha256(content.encode()).hexdigest())
        return whole._restricted(
            masks.rows,
            masks=masks,
            has_lung_masks=True,
            statistics=masks.card['statistics'],
            class_counts={k: part['classes'] for k, part in masks.card['accepted'].items()},
        )

    def arranged(self, rows: dict[str, np.ndarray]) -> 'PreparedData':
        """Other splits, {name: record numbers counted through all stored splits}; no labels."""
        if self.rows is not None:
            raise ValueError('only a whole prepared set can be arranged')
        return self._restricted(
            rows, pooled=True, classes=(), class_counts={split: [] for split in rows}
        )

    def _rows(self, split: str) -> np.ndarray:
        return np.arange(self.counts[split]) if self.rows is None else self.rows[split]

    def _restricted(self, rows: dict[str, np.ndarray], **changes) -> 'PreparedData':
        digest = hashlib.sha256(self.fingerprint.encode())
        for split in sorted(rows):
            digest.update(f'{split} {rows[split].tolist()}'.encode())
        digest.update(f'{changes.get("classes")}'.encode())
        counts = {split: len(numbers) for split, numbers in rows.items()}
        return replace(self, rows=rows, counts=counts, fingerprint=digest.hexdigest(), **changes)


def open_prepared(data_dir: str | Path, name: str, size: int, masks: str = '') -> PreparedData:
    """Open <data_dir>/<name>/<size>px; a UserError says how to prepare what is missing.

    `masks` names a sidecar of lung masks (mask_store) that stand for the stored ones; '' = none.
    """
    if name not in DATASETS:
        raise UserError(f'Unknown data set {name!r}; known are {", ".join(DATASETS)}.')
    directory = Path(data_dir) / name / f'{size}px'
    source = '' if name == 'synthetic_cxr' else '--source <folder of the raw files> '
    command = (
        f'python -m data_pipelines.prepare --dataset {name} {source}'
        f'--data_dir {data_dir} --size {size}'
    )
    if not (directory / CARD_FILE).is_file():
        sizes = sorted(
            int(path.parent.name.removesuffix('px'))
            for path in Path(data_dir).glob(f'{name}/[0-9]*px/{CARD_FILE}')
        )
        exist = f' Prepared sizes of {name} there: {sizes}.' if sizes else ''
        raise UserError(f'{directory} holds no prepared set.{exist} Prepare it with: {command}')
    card = json.loads((directory / CARD_FILE).read_text())
    damage = _damage(directory, card)
    if damage:
        raise UserError(
            f'The prepared set in {directory} cannot be used: {damage}. Delete the folder and '
            f'prepare it again with: {command}'
        )
    prepared = PreparedData(
        directory=directory,
        name=card['dataset'],
        classes=tuple(card['classes']),
        card=card,
        **{
            key: card[key]
            for key in (
                'size', 'bits', 'counts', 'class_counts', 'fingerprint', 'has_patient_ids',
                'has_lung_masks', 'statistics',
            )
        },
    )  # fmt: skip
    return prepared.with_masks(masks) if masks else prepared


def _damage(directory: Path, card: dict) -> str:
    """Why the card and the records do not belong together; '' when they do."""
    if card.get('format') != CARD_FORMAT:
        return f'its card has the format {card.get("format")}, this code needs {CARD_FORMAT}'
    for name, size in card['files'].items():
        path = directory / VERSION / name
        if not path.is_file():
            return f'{VERSION}/{name} is missing'
        if path.stat().st_size != size:
            return f'{VERSION}/{name} has {path.stat().st_size} bytes instead of {size}'
    info = json.loads((directory / VERSION / 'dataset_info.json').read_text())
    if card['fingerprint'] not in info['description']:
        return 'card.json and the records are of different preparations'
    return ''


class Records:
    """Fields of the records of one split by number; thread-safe."""

    def __init__(self, prepared: PreparedData, split: str, fields: tuple[str, ...]):
        prepared.count(split)  # raises if there is no such split
        builder = tfds.builder_from_directory(str(prepared.directory / VERSION))
        stored = '+'.join(prepared.card['counts']) if prepared.pooled else split
        self._source = SerializedRecords(builder.info.splits[stored].file_instructions)
        self._fields, self._prepared = fields, prepared
        self._rows = None if prepared.rows is None else prepared.rows[split]

    def __len__(self) -> int:
        return len(self._source if self._rows is None else self._rows)

    def read(self, numbers: Sequence[int]) -> list[dict]:
        prepared, numbers = self._prepared, np.asarray(numbers, np.int64)
        stored = self._source.read(numbers if self._rows is None else self._rows[numbers])
        records = [decode(raw, self._fields, prepared.size, prepared.bits) for raw in stored]
        if prepared.labels is not None:
            for record in records:
                record['label'] = _relabelled(record['label'], prepared.labels)
        if prepared.masks is not None:
            for raw, record in zip(stored, records, strict=True):
                self._replace_mask(raw, record)
        return records

    def _replace_mask(self, raw: bytes, record: dict) -> None:
        prepared = self._prepared
        if 'lung_mask' in record:
            image_id = decode(raw, ('image_id',), prepared.size, prepared.bits)['image_id']
            record['lung_mask'] = prepared.masks.mask(image_id)
        if 'has_lung_mask' in record:
            record['has_lung_mask'] = True

    def column(self, field: str) -> np.ndarray:
        """One field of all records, read some at a time."""
        parts = [
            [record[field] for record in self.read(range(i, min(i + 256, len(self))))]
            for i in range(0, len(self), 256)
        ]
        return np.asarray([value for part in parts for value in part])


def _relabelled(label: np.ndarray, labels: tuple[int, ...]) -> np.ndarray:
    return np.int32(labels[label]) if label >= 0 else label
