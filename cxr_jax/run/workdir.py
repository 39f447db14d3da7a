"""The folder of one run: what it was started with, and whether its results are there."""

import contextlib
import functools
import json
import pathlib

from cxr_jax.run.plan import Plan
from cxr_jax.runtime import hosts
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store.files import write_json
from cxr_jax.store.identity import active, differences
from data_pipelines.errors import UserError
from data_pipelines.storage import places, units

RUN_FILE = 'run.json'
RESULTS_FILE = 'results.json'


def claim_workdir(workdir: pathlib.Path, identity: dict, settings: dict) -> dict | None:
    """Results if this very run is finished there.

    `identity`: what the results follow from, among it the keys of the last stages ('stages');
    `settings`: to be told where they differ. UserError if the workdir holds results of another
    run. One that did not finish may be started again with other settings: what it trained lies in
    the store.
    """
    units.pull(workdir)
    path, results = workdir / RUN_FILE, workdir / RESULTS_FILE
    if path.is_file():
        before = json.loads(path.read_text())
        same = before.get('identity') == identity
        if not same and results.is_file():
            differing = differences(before.get('settings', {}), settings) or differences(
                before.get('identity', {}), identity
            )
            raise UserError(
                f'{places.name_of(workdir)} holds a run with other settings or data, which this '
                'one would overwrite; give another --workdir, or delete it. (There, here):\n'
                f'{differing}'
            )
        if same and results.is_file():
            with contextlib.suppress(json.JSONDecodeError):  # damaged: written anew
                return json.loads(results.read_text())
    workdir.mkdir(parents=True, exist_ok=True)
    units.unsettle(workdir)
    last = {'last_stage': identity['stages'][-1]}
    write_json(path, {'identity': identity, 'settings': settings} | last)
    return None


@contextlib.contextmanager
def copied_up(workdir: pathlib.Path, store: pathlib.Path):
    """Copies `workdir` to its URL, if it has one, when the run in it has ended or was stopped; what
    lies in the store has its own times."""
    of_store = [each.name for each in (store, *store.parents) if each.parent == workdir]

    def copy() -> None:
        units.push(workdir, skip=of_store)

    try:
        yield
    except Interrupted:
        hosts.on_first(copy)
        raise
    hosts.on_first(copy)


def store_of(store: str, workdir: pathlib.Path) -> pathlib.Path:
    """Folder of the trained stages: as set, or beside the workdir; UserError."""
    folder = places.local(store) if store else workdir.parent / 'stages'
    _tell_of(folder)
    return folder


@functools.cache
def _tell_of(store: pathlib.Path) -> None:
    if places.url_of(store):
        print(
            f'Stages are copied to {places.url_of(store)} when they are finished or stopped. Only '
            f'the processes of this machine know of each other, by {store}: if another trains the '
            'same stage meanwhile, both arrive at the same.',
            flush=True,
        )


def identity_of(plan: Plan) -> dict:
    """What the results of a run follow from."""
    # Only where it is asked for: the results of runs without it stay what they were.
    asked = {'retention': True} if plan.settings.run.monitor.retention else {}
    return asked | {
        'stages': [branch.stages[-1].key for branch in plan.branches],
        'evaluation': active(plan.settings.run.eval),
        'tested': [
            branch.tested and [
                branch.tested.corpus.fingerprint,
                plan.data.target.fingerprint(branch.tested.corpus),
            ]
            for branch in plan.branches
        ],
    }  # fmt: skip


def settings_of(plan: Plan) -> dict:
    """The active settings, to be told where they differ."""
    stages = {name: active(stage) for name, stage in plan.settings.stages.items()}
    sets = {name: prepared.fingerprint for name, prepared in plan.data.sets.items()}
    return active(plan.settings.run) | {'stage': stages, 'sets': sets}
