"""One of several processes of a run: python -m tests.process_worker PORT INDEX PROCESSES FOLDER

Writes into FOLDER what test_processes looks at. The prepared data's folder is in FOLDER/data.
"""

import json
import os
import pathlib
import sys

import jax
import numpy as np

from cxr_jax import curriculum, hosts, parallel, training
from cxr_jax.interrupt import Interrupted
from data_pipelines.prepared import open_prepared
from tests import exactness, tiny

CASES = ('rot', 'moco, shuffled groups', 'swav')
STOPPED_AT = 3  # the step in which the last process gets SIGTERM
SEARCH = {
    f'stage.classify.search.{name}': value
    for name, value in {'protocol': 'thesis', 'low': 0.001, 'count': 2, 'epochs': 1}.items()
}
# At its usual rate the training would multiply the rounding of float32 by more each step.
SLOW = {'stage.classify.optimizer.lr': 1e-4}
LOG_STEPS = 2  # the processes ask each other after so many


def exact(folder: pathlib.Path, mesh) -> None:
    """exactness.train of CASES, as <case>.npz."""
    with jax.enable_x64(True):
        for case in CASES:
            found = exactness.train(case, mesh)
            hosts.on_first(lambda case=case, found=found: np.savez(folder / case, **found))


def whole_run(data, mesh, workdir: pathlib.Path, around, **changes) -> str:
    """What a run says at its end: 'finished', or that it was interrupted."""
    config = tiny.make_config(data, 'scratch', store=str(workdir / 'stages'), **changes)
    try:
        with tiny.compiled_once(around, mesh):
            curriculum.run(config, workdir)
    except Interrupted as told:
        return str(told)
    return 'finished'


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
    exact(folder, mesh)
    stop = tiny.sigterm_at(STOPPED_AT) if last else as_it_is
    for name, around, changes in (
        ('stopped_by_two', stop, SLOW),
        ('stopped_by_one', as_it_is, SLOW),
        ('searched', as_it_is, SEARCH),
    ):
        told[name] = whole_run(data, mesh, folder / name, around, **changes)
    (folder / f'told.{index}.json').write_text(json.dumps(told))


if __name__ == '__main__':
    main()
