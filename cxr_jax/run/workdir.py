"""The folder of one run: what it was started with, and whether its results are there."""

import contextlib
import json
import pathlib

from ml_collections import ConfigDict

from cxr_jax.store import provenance
from cxr_jax.store.files import write_json
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import PreparedData

RUN_FILE = 'run.json'
RESULTS_FILE = 'results.json'


def claim_workdir(
    workdir: pathlib.Path, config: ConfigDict, data: PreparedData, last_key: str
) -> dict | None:
    """Results if this very run is finished there, `last_key` being its last stage's.

    UserError if the workdir holds results of another run, or one on other data. A run that did not
    finish may be started again with other settings: what it trained lies in the store.
    """
    settings = provenance.plain(config.to_dict())
    # Where things lie, and what is kept or computed again, does not change what comes out.
    for section, name in (
        (settings, 'store'),
        (settings['data'], 'dir'),
        (settings['data'], 'on_device'),
        (settings.get('backbone', {}), 'remat'),
    ):
        section.pop(name, None)
    identity = {'config': settings, 'data': data.fingerprint, 'last_stage': last_key}
    path, results = workdir / RUN_FILE, workdir / RESULTS_FILE
    if path.is_file():
        before = json.loads(path.read_text())
        last = before.pop('last_stage', '')
        differences = _differences(before, {k: identity[k] for k in before})
        if not differences and last != last_key:
            # Another weights file of the same name, another compute dtype, another stage format.
            differences = f'  the stages themselves: {last}, {last_key}'
        if differences and (results.is_file() or before['data'] != data.fingerprint):
            raise UserError(
                f'{workdir} holds a run with other settings or data, which this one would '
                f'overwrite; give another --workdir, or delete it. (There, here):\n{differences}'
            )
        if not differences and results.is_file():
            with contextlib.suppress(json.JSONDecodeError):  # damaged: written anew
                return json.loads(results.read_text())
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, identity)
    return None


def _differences(before: dict, now: dict) -> str:
    old, new = _flat(before), _flat(now)
    return '\n'.join(
        f'  {name}: {old.get(name)!r}, {new.get(name)!r}'
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def _flat(tree: dict, prefix: str = '') -> dict:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = value
    return flat
