"""Prepared sets that exist in memory only: an index and no records."""

from pathlib import Path

import numpy as np

from data_pipelines.prepared.data import PreparedSet
from data_pipelines.prepared.index import Index


def made_up_set(name='set', n=0, names=(), exclusive=True, size=16, bits=8, salt='', **columns):
    """A set of `n` images (or as many as the columns have), each of its own patient.

    `salt` is put before every id, as another data folder's would be.
    """
    n = n or max((len(column) for column in columns.values()), default=0)
    numbers = np.arange(n)

    def ids(kind):
        given = np.asarray(columns.pop(kind, [f'{kind} {name} {k}' for k in numbers]), np.str_)
        return np.where(given == '', '', np.char.add(salt, given))

    defaults = {
        'source': np.full(n, ''), 'view': np.full(n, 'PA'), 'sex': np.full(n, 'F'),
        'age': np.full(n, 50, np.float32), 'split': np.full(n, 'train'),
        'has_mask': np.zeros(n, bool), 'has_boxes': np.zeros(n, bool),
        'labels': np.full((n, len(names)), -2, np.int8),
        'content': [f'pixels {name} {k}' for k in numbers], 'mask_content': np.full(n, ''),
        'sums': np.ones((n, 3), np.int64), 'lung_sums': np.zeros((n, 3), np.int64),
    }  # fmt: skip
    known = {kind: ids(kind) for kind in ('image_id', 'patient', 'study')}
    index = Index(**{k: np.asarray(v) for k, v in (defaults | columns | known).items()})
    return PreparedSet(
        directory=Path('nowhere', salt or 'data', name, f'{size}px'), name=name,
        dataset='image_folder', size=size, bits=bits, names=tuple(names), exclusive=exclusive,
        index=index, fingerprint=f'fingerprint of {name}', card={'fingerprint': name},
    )  # fmt: skip


def cohort(n_patients, seed=0, n_strata=3):
    """(patient, stratum) of every image: 1 to 4 images each, some patients with two strata."""
    rng = np.random.default_rng(seed)
    patients, strata = [], []
    for k in range(n_patients):
        name = f'{rng.integers(10**6)}-{k}'
        own = rng.choice(n_strata, p=np.arange(1, n_strata + 1) / sum(range(n_strata + 1)))
        for _ in range(rng.integers(1, 5)):
            patients.append(name)
            strata.append(rng.integers(n_strata) if rng.random() < 0.1 else own)
    order = rng.permutation(len(patients))
    return np.array(patients)[order], np.array(strata)[order]
