"""What all certificates read: the data sets of the tests, and which tasks are asked for."""

import pathlib

from cxr_jax.tasks import READOUTS, TASKS
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from data_pipelines.prepared.data import CARD_FILE, PreparedSet, open_prepared
from tests import small_sets, tiny

PHANTOMS, FINDINGS = 'synthetic_cxr', 'f'  # prepared sets: exclusive classes, findings


def prepare_all(folder: pathlib.Path) -> None:
    """Both sets in the folder, unless they are there."""
    if not (folder / PHANTOMS / f'{tiny.SIZE}px' / CARD_FILE).is_file():
        prepare(PHANTOMS, None, folder, tiny.SIZE, images=tiny.IMAGES, processes=1)
    if not (folder / 'data' / FINDINGS / f'{small_sets.SIZE}px' / CARD_FILE).is_file():
        small_sets.prepare_all(folder)


def open_for(folder: pathlib.Path, readout: str) -> PreparedSet:
    """The set whose target the readout predicts; a pretext task takes the phantoms."""
    if readout in READOUTS and READOUTS[readout].exclusive is False:
        return open_prepared(folder / 'data', FINDINGS, small_sets.SIZE)
    return open_prepared(folder, PHANTOMS, tiny.SIZE)


def asked_for(only: str) -> set[str]:
    """Names in 'moco,rot'; all tasks of the registries for ''."""
    everyone = TASKS | READOUTS
    names = {name for name in only.split(',') if name} or set(everyone)
    if names - everyone.keys():
        unknown = ', '.join(sorted(names - everyone.keys()))
        raise UserError(f'--only names no task: {unknown}. There are {", ".join(everyone)}.')
    return names
