"""What a run may start from beside a fresh encoder: published weights, or a finished stage."""

import dataclasses
import hashlib
import pathlib

from cxr_jax.models.encoder import Contract
from cxr_jax.run.settings import RunSettings, Settings
from cxr_jax.store.bundle import BUNDLE, read_description
from data_pipelines.errors import UserError
from data_pipelines.storage import places, units
from data_pipelines.storage.raw import pull_files


def brought(settings: Settings) -> Settings:
    """The settings with weights that lie at a URL replaced by their working copy; UserError."""
    run = settings.run
    if not run.encoder.weights:
        return settings
    path = places.local(run.encoder.weights)
    if not units.pull(path, BUNDLE):
        pull_files(path)
    encoder = dataclasses.replace(run.encoder, weights=str(path))
    return dataclasses.replace(settings, run=dataclasses.replace(run, encoder=encoder))


def bundled_contract(folder: pathlib.Path, run: RunSettings) -> Contract:
    """The contract of a bundle that the run starts from; UserError where the data do not fit."""
    contract = Contract(**read_description(folder)['contract'])
    asked = {'size': run.data.size, 'region': run.data.region, 'channels': run.encoder.channels}
    wrong = {name: value for name, value in asked.items() if getattr(contract, name) != value}
    if wrong:
        told = ', '.join(f'{name} {getattr(contract, name)}, not {v}' for name, v in wrong.items())
        raise UserError(f'The encoder in {folder} was trained on images of {told}.')
    return contract


def weights_hash(path: str, takes: tuple[str, ...] = ('encoder',)) -> str:
    """What a weights file holds, or of a bundle the parts that are taken: SHA-256 of each.

    UserError if it cannot be read.
    """
    folder = pathlib.Path(path)
    if folder.is_dir():
        parts = read_description(folder)['parts']
        return ' '.join(parts[name]['sha256'] for name in takes if name in parts)
    try:
        return hashlib.sha256(folder.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f'--config.encoder.weights={path} cannot be read ({error.strerror}); name a '
            '.safetensors file, or the folder of a finished stage.'
        ) from None


def told_of(path: str) -> list[str]:
    """What a user must know of a finished stage that a run starts from; nothing of a file."""
    if not pathlib.Path(path).is_dir():
        return []
    told = read_description(pathlib.Path(path))
    sets = ', '.join(each['name'] for each in told['data']['sets'])
    return [
        f'starts from {told["stage"]}, which trained on images of {sets}: whether images that are '
        'tested here were among them is not checked'
    ]
