"""A prepared set of noise, of any size, written without raw files."""

import json
from pathlib import Path

import numpy as np

from data_pipelines.prepared.data import CARD_FILE, CARD_FORMAT
from data_pipelines.prepared.index import INDEX_FILE, Index
from data_pipelines.prepared.records import VERSION
from data_pipelines.prepared.statistics import pixel_sums
from data_pipelines.preparing.build import write_records
from scripts.benches.case import NAMES

NAME = 'image_folder'
HELD_OUT = 64  # images of each of the splits validation and test
KINDS = 256  # images that differ


def write_set(folder: Path, records: int, size: int) -> int:
    """<folder>/NAME/<size>px with `records` training images, one a patient; its size in bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (KINDS, size, size, 1), np.uint8)
    index = _index(records + 2 * HELD_OUT, records, [pixel_sums(image) for image in noise])
    card = {
        'format': CARD_FORMAT, 'name': NAME, 'dataset': NAME, 'size': size, 'bits': 8,
        'channels': 1, 'names': NAMES, 'exclusive': True, 'fingerprint': 'noise',
    }  # fmt: skip
    blank = {
        'lung_mask': np.zeros((size, size, 1), np.uint8), 'has_lung_mask': False, 'sex': '',
        'view': 'PA', 'source': '', 'age': np.nan, 'boxes': np.zeros((0, 4), np.float32),
        'spacing': np.ones(2, np.float32), 'original_size': np.full(2, size, np.int32),
        'columns': '{}',
    }  # fmt: skip

    def make(number: int) -> dict:
        name = index.image_id[number]
        ids = {'image_id': name, 'study': name, 'patient': name}
        return blank | ids | {'image': noise[number % KINDS], 'labels': index.labels[number]}

    built = write_records(folder, card, range(len(index)), make)
    index.save(built / INDEX_FILE)
    card['files'] = {
        str(path.relative_to(built)): path.stat().st_size
        for path in (built / INDEX_FILE, *(built / VERSION).iterdir())
    }
    (built / CARD_FILE).write_text(json.dumps(card))
    return sum(card['files'].values())


def _index(n: int, records: int, sums: list[tuple[int, int, int]]) -> Index:
    """Of `n` images, the first `records` for training; their contents are said to differ."""
    numbers = np.arange(n)
    ids = np.array([f'{number:032x}' for number in numbers])
    nothing, without = np.full(n, ''), np.zeros(n, bool)
    held_out = np.where(numbers < records + HELD_OUT, 'validation', 'test')
    return Index(
        image_id=ids, patient=ids, study=ids, source=nothing, view=np.full(n, 'PA'), sex=nothing,
        age=np.full(n, np.nan, np.float32), split=np.where(numbers < records, 'train', held_out),
        has_mask=without, has_boxes=without, content=ids, mask_content=nothing,
        labels=(numbers[:, None] % len(NAMES) == np.arange(len(NAMES))).astype(np.int8),
        sums=np.array(sums, np.int64)[numbers % KINDS], lung_sums=np.zeros((n, 3), np.int64),
    )  # fmt: skip
