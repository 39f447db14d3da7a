"""Prepared sets without records: enough for everything that is decided before training.

Two images a patient; of 800 images 560 are to train on, 80 to validate, 160 to test.
"""

import hashlib
import json
import pathlib

import numpy as np

from data_pipelines.prepared.data import CARD_FORMAT, PreparedSet, open_prepared
from data_pipelines.prepared.index import INDEX_FILE, Index
from data_pipelines.prepared.records import VERSION

CLASSES = ('negative', 'typical', 'indeterminate', 'atypical')
COUNTS = {'train': 560, 'validation': 80, 'test': 160}


def write_bare(
    data_dir, name: str, size: int, counts: dict = COUNTS, labels=None, has_mask=True, copied='',
    first=0, **card,
) -> PreparedSet:  # fmt: skip
    """Writes and opens a set; `labels`: int8 [N, F], default the four classes in turn.

    Its images are those of the set `copied` from number `first` on, if that is named.
    """
    folder = pathlib.Path(data_dir, name, f'{size}px')
    (folder / VERSION).mkdir(parents=True)
    (folder / VERSION / 'dataset_info.json').write_text(json.dumps({'description': 'abc'}))
    n = sum(counts.values())
    if labels is None:
        labels = np.eye(4, dtype=np.int8)[np.arange(n) // 2 % 4]
    numbers = range(first, first + n)
    bare_index(numbers, copied or name, size, counts, labels, has_mask).save(folder / INDEX_FILE)
    whole = {
        'format': CARD_FORMAT, 'name': name, 'dataset': name, 'size': size, 'bits': 8,
        'names': list(CLASSES), 'exclusive': True, 'fingerprint': 'abc', 'files': {},
    }  # fmt: skip
    (folder / 'card.json').write_text(json.dumps(whole | card))
    # One that cannot be opened is what some tests are about.
    return open_prepared(data_dir, name, size) if 'format' not in card else None


def bare_index(numbers: range, name, size, counts, labels, has_mask) -> Index:
    def hashes(what):
        return np.array([hashlib.sha256(f'{what}{i}'.encode()).hexdigest()[:32] for i in numbers])

    n, level = len(numbers), 40 + np.arange(len(numbers)) % 100
    sums = np.stack([np.full(n, size**2), size**2 * level, size**2 * level**2 + level], 1)
    empty, mask = np.full(n, ''), np.full(n, has_mask)
    return Index(
        image_id=np.array([f'{name}/{i}' for i in numbers]),
        patient=np.array([f'{name}/p{i // 2}' for i in numbers]),
        study=np.array([f'{name}/s{i}' for i in numbers]),
        source=empty, view=empty, sex=empty, age=np.full(n, np.nan, np.float32),
        split=np.repeat(list(counts), list(counts.values())),
        has_mask=mask, has_boxes=np.zeros(n, bool), labels=labels,
        content=hashes(name), mask_content=np.where(mask, hashes(f'{name} mask '), ''),
        sums=sums, lung_sums=np.where(mask[:, None], sums // 2, 0),
    )  # fmt: skip
