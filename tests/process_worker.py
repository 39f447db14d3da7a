"""One of several processes of a run: python -m tests.process_worker PORT INDEX PROCESSES FOLDER

Writes into FOLDER what test_processes looks at. The prepared data's folder is in FOLDER/data.
"""

import json
import os
import pathlib
import sys

import jax
import numpy as np

from cxr_jax.run import curriculum
from cxr_jax.runtime import hosts, parallel
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.train import loop as training
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import open_prepared
from tests import exactness, tiny

STOPPED_AT = 3  # the step in which the last process gets SIGTERM
# At their usual rates trainings multiply the rounding of float32 by more each step.
SLOW = {'stage.classify.optimizer.lr': 1e-4}
WATCHED = {'monitor.probe_epochs': 1, 'stage.classify.early_stop.by': 'rank'}
GRID = {'protocol': 'thesis', 'low': 1e-4, 'high': 1e-3, 'count': 2, 'epochs': 1}
SEARCH = {
    f'stage.{task}.search.{name}': value
    for name, value in GRID.items()
    for task in ('rot', 'classify')
}
# Curriculum and changed settings of every run.
RUNS = {
    'stopped_by_two': ('scratch', SLOW),
    'stopped_by_one': ('scratch', SLOW | WATCHED),
    'searched': ('rot', SEARCH),
}
LOG_STEPS = 2  # the processes ask each other after so many


# Cases of tests.exactness: rows of all devices gathered and permuted, statistics over them, and a
# memory whose rows lie in several processes. What other tasks add is the same program whatever
# process the devices belong to.
CASES = ('moco', 'odc')


def exact(folder: pathlib.Path, data, mesh) -> None:
    """exactness.train of every case, as <case>.npz."""
    for case in CASES:
        found = exactness.train(exactness.stage_of(data, case), mesh, folder / f'exact-{case}')
        hosts.on_first(lambda case=case, found=found: np.savez(folder / case, **found))


def plan_of(name: str, data, workdir: pathlib.Path, devices: int):
    """Plan of one of RUNS, with a store of its own."""
    tasks, changes = RUNS[name]
    return tiny.make_plan(data, tasks, devices=devices, store=str(workdir / 'stages'), **changes)


def whole_run(name: str, data, mesh, workdir: pathlib.Path, around) -> str:
    """What a run says at its end: 'finished', or that it was interrupted."""
    plan = plan_of(name, data, workdir, mesh.size)
    try:
        with tiny.compiled_once(around, mesh):
            curriculum.run(plan, workdir)
    except Interrupted as told:
        return str(told)
    return 'finished'


def refuse(reason: str):
    raise UserError(reason)


def as_it_is(step):
    return step


def main() -> None:
    port, index, processes, folder = sys.argv[1:]
    folder = pathlib.Path(folder)
    hosts.connect(f'127.0.0.1:{port}', int(processes), int(index))
    mesh, training.LOG_STEPS = parallel.data_mesh(), LOG_STEPS
    data = open_prepared((folder / 'data').read_text(), 'synthetic_cxr', tiny.SIZE)
    last = jax.process_index() == jax.process_count() - 1
    told = {'devices': mesh.size, 'pid': os.getpid()}
    try:
        hosts.on_first(refuse, 'only the first process says this')
    except UserError as error:
        told['refused'] = str(error)
    exact(folder, data, mesh)
    stop = tiny.sigterm_at(STOPPED_AT) if last else as_it_is
    for name in RUNS:
        around = stop if name == 'stopped_by_two' else as_it_is
        told[name] = whole_run(name, data, mesh, folder / name, around)
    (folder / f'told.{index}.json').write_text(json.dumps(told))


if __name__ == '__main__':
    main()
