"""An image on its way into a prepared set: its facts, its record, its row of the index."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data_pipelines.datasets.base import Item
from data_pipelines.prepared.index import NOT_SAID, Index
from data_pipelines.preparing.identity import digest, pseudonym
from data_pipelines.preparing.ingest import IngestedImage
from data_pipelines.raw.resize import transform_boxes

IDS = ('image_id', 'patient', 'study')


@dataclass
class Entry:
    """One image on its way into a record: the tables' item and the file's meta, merged.

    `patient` and `study` are digests (identity.py); `patient` is '' when unknown.
    """

    item: Item
    meta: dict
    n_names: int = 0  # of the labels of the set
    set_name: str = ''
    split: str = ''
    image: str = field(init=False)
    patient: str = field(init=False)
    study: str = field(init=False)

    def __post_init__(self):
        item, meta = self.item, self.meta
        self.image = digest('image', item.relative)
        if item.patient is None:
            self.patient = ''
        else:
            self.patient = digest('patient', item.patient) if item.patient else meta['patient']
        self.study = digest('study', item.study) if item.study else meta['study'] or self.image

    def ids(self, salt: bytes) -> dict[str, str]:
        """The pseudonyms {'image_id', 'patient', 'study'}.

        A patient and a study have theirs in all sets of the data folder, an image in its own set:
        others may have files of the same name.
        """
        image = pseudonym(salt, digest('image', f'{self.set_name}/{self.image}'))
        return {
            'image_id': image,
            'study': image if self.study == self.image else pseudonym(salt, self.study),
            'patient': pseudonym(salt, self.patient) if self.patient else '',
        }

    @property
    def labels(self) -> tuple[int, ...]:
        """Of each of the set's names (index.Index.labels)."""
        return self.item.labels or (NOT_SAID,) * self.n_names

    @property
    def group(self) -> str:
        """What must not be torn apart by a split: the patient, else the study (or image)."""
        return self.patient or self.study

    @property
    def sex(self) -> str:
        letter = (self.item.sex or self.meta['sex'] or '')[:1].upper()
        return letter if letter in ('F', 'M') else ''

    @property
    def raw_view(self) -> str:
        return (self.item.view or self.meta['view'] or '').strip()

    @property
    def view(self) -> str:
        """PA or AP, also from 'AP Supine' and the like; '' for lateral and unknown views."""
        first = self.raw_view.upper()[:2]
        return first if first in ('PA', 'AP') else ''

    @property
    def source(self) -> str:
        return self.item.source or self.meta['source'] or ''

    @property
    def age(self) -> float:
        """Years; nan when unknown."""
        return self.meta['age'] if math.isnan(self.item.age) else self.item.age

    @property
    def boxes(self) -> np.ndarray:
        """Lesion boxes in pixels of the prepared image, float32 [n, 4] (x, y, w, h)."""
        meta = self.meta
        return transform_boxes(
            self.item.boxes, meta['original_size'], meta['size'], meta['original_spacing'],
            0 if self.item.enlarge else meta['size'],
        )


def make_record(entry: Entry, ingested: IngestedImage, salt: bytes) -> dict:
    """The TFDS example of one image; ids become pseudonyms."""
    size = ingested.image.shape[0]
    mask = ingested.lung_mask
    columns = dict(entry.item.columns)
    if entry.raw_view and entry.raw_view != entry.view:
        columns.setdefault('view', entry.raw_view)
    return {
        'image': ingested.image.reshape(size, size, -1),
        'lung_mask': (np.zeros((size, size), np.uint8) if mask is None else mask)[..., None],
        'has_lung_mask': mask is not None,
        'labels': np.array(entry.labels, np.int8),
        **entry.ids(salt),
        'sex': entry.sex,
        'view': entry.view,
        'source': entry.source,
        'age': entry.age,
        'boxes': entry.boxes,
        'spacing': np.asarray(entry.meta['spacing'], np.float32),
        'original_size': np.asarray(entry.meta['original_size'], np.int32),
        'columns': json.dumps(columns, sort_keys=True),
    }


def make_index(entries: Sequence[Entry], n_names: int, salt: bytes) -> Index:
    """The index of the entries in this order; ids become the pseudonyms of their records."""

    def texts(values: list[str]) -> np.ndarray:
        return np.array(values, np.str_)

    metas, ids = [entry.meta for entry in entries], [entry.ids(salt) for entry in entries]
    no_lungs = (0, 0, 0)
    return Index(
        **{field: texts([each[field] for each in ids]) for field in IDS},
        source=texts([e.source for e in entries]),
        view=texts([e.view for e in entries]),
        sex=texts([e.sex for e in entries]),
        age=np.array([e.age for e in entries], np.float32),
        split=texts([e.split for e in entries]),
        has_mask=np.array([bool(meta['mask_hash']) for meta in metas]),
        has_boxes=np.array([bool(e.item.boxes) for e in entries]),
        labels=np.array([e.labels for e in entries], np.int8).reshape(len(entries), n_names),
        content=texts([meta['image_hash'][:32] for meta in metas]),
        mask_content=texts([meta['mask_hash'][:32] for meta in metas]),
        sums=np.array([meta['sums'] for meta in metas], np.int64),
        lung_sums=np.array([meta['lung_sums'] or no_lungs for meta in metas], np.int64),
    )
