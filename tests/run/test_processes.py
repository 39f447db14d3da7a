"""Two processes with two devices each do what one process does with one device or four."""

import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from cxr_jax.run import curriculum
from cxr_jax.run.search import SEARCH_FILE
from cxr_jax.run.workdir import RESULTS_FILE
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.train.early_stop import EARLY_STOP_FILE
from cxr_jax.train.monitor import HEALTH_FILE
from cxr_jax.train.probing import PROBES_FILE
from tests import exactness, process_worker, tiny

ROOT = pathlib.Path(__file__).parents[2]
PROCESSES, DEVICES = 2, 2


def run_alone(name, data, workdir, around=lambda step: step):
    """The run of process_worker in this process, on one device."""
    with tiny.compiled_once(around):
        return curriculum.run(process_worker.plan_of(name, data, workdir, 1), workdir)


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope='module')
def folder(tiny_data, tmp_path_factory):
    """What the two processes of process_worker left."""
    folder = tmp_path_factory.mktemp('processes')
    (folder / 'data').write_text(str(tiny_data.directory.parents[1]))
    with pytest.raises(Interrupted, match='step 5 of 8'):
        run_alone('stopped_by_one', tiny_data, folder / 'stopped_by_one', tiny.sigterm_at(5))
    command = [sys.executable, '-m', 'tests.process_worker', str(free_port())]
    workers, said = [], [folder / f'said.{index}' for index in range(PROCESSES)]
    for index, path in enumerate(said):
        words = [*command, str(index), str(PROCESSES), str(folder)]
        with open(path, 'w') as out:
            workers.append(subprocess.Popen(
                words, cwd=ROOT, env=tiny.environment(DEVICES), stdout=out,
                stderr=subprocess.STDOUT,
            ))  # fmt: skip
    codes = [worker.wait(timeout=600) for worker in workers]
    assert codes == [0] * PROCESSES, [path.read_text()[-3000:] for path in said]
    return folder


def told(folder):
    return [json.loads((folder / f'told.{index}.json').read_text()) for index in range(PROCESSES)]


@pytest.mark.parametrize('case', process_worker.CASES)
def test_training_is_that_of_one_process(case, folder, exact):
    for each in told(folder):
        assert each['devices'] == PROCESSES * DEVICES
        assert each['refused'] == 'only the first process says this'
    expected = exact(case, PROCESSES * DEVICES)
    expected = {name: leaf for name, leaf in expected.items() if not name.startswith("['seen']")}
    exactness.assert_equal(dict(np.load(folder / f'{case}.npz')), expected)


@pytest.fixture(scope='module')
def alone(tiny_data, tmp_path_factory):
    """Workdir of the same run, uninterrupted, on one device."""
    workdir = tmp_path_factory.mktemp('uninterrupted') / 'run'
    run_alone('stopped_by_one', tiny_data, workdir)
    return workdir


@pytest.fixture(scope='module')
def uninterrupted(alone):
    """Its log rows."""
    return log_of(alone)


def log_of(workdir, file='metrics.jsonl'):
    (path,) = workdir.glob(f'stages/classify-*/{file}')
    return [json.loads(row) for row in path.open()]


def test_sigterm_of_one_process_stops_and_saves_all(folder, tiny_data, uninterrupted):
    """At the next step at which they ask each other; one process goes on from there."""
    for each in told(folder):
        assert each['stopped_by_two'] == 'stage classify stopped and saved at step 4 of 8'
    workdir = folder / 'stopped_by_two'
    assert not (workdir / RESULTS_FILE).exists()
    run_alone('stopped_by_two', tiny_data, workdir)
    assert_same_curve(log_of(workdir), uninterrupted, sessions=[1] * 4 + [2] * 4)


def test_two_processes_go_on_where_one_stopped(folder, uninterrupted):
    for each in told(folder):
        assert each['stopped_by_one'] == each['searched'] == 'finished'
    rows = log_of(folder / 'stopped_by_one')
    assert_same_curve(rows, uninterrupted, sessions=[1] * 5 + [2] * 3)


@pytest.mark.parametrize('file', [HEALTH_FILE, PROBES_FILE, EARLY_STOP_FILE])
def test_monitors_of_two_processes_see_what_one_sees(file, folder, alone):
    """Over the whole batch, and from the step on at which they took over."""
    found, expected = (log_of(workdir, file) for workdir in (folder / 'stopped_by_one', alone))
    assert len(found) == len(expected) >= 2
    for row, wanted in zip(found, expected, strict=True):
        assert row.pop('alarms', []) == wanted.pop('alarms', [])
        assert row == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def assert_same_curve(rows, expected, sessions):
    assert [row['session'] for row in rows] == sessions
    for name in ('loss', 'grad_norm'):
        found, wanted = ([row[name] for row in log] for log in (rows, expected))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, err_msg=name)
        assert min(np.abs(np.diff(wanted))) > 5e-4


@pytest.mark.parametrize('name', ('stopped_by_one', 'searched'))
def test_every_test_image_is_evaluated_once(name, folder, tiny_data):
    """Nine images in batches of eight over four devices; the figures are those of one device."""
    workdir = folder / name
    tested = len(tiny_data.corpus('test'))
    assert tested % 8
    written = dict(np.load(workdir / curriculum.PREDICTIONS_FILE))
    results = json.loads((workdir / RESULTS_FILE).read_text())
    for file in (curriculum.PREDICTIONS_FILE, RESULTS_FILE):
        (workdir / file).unlink()
    # The stages are found finished: only the evaluation runs again.
    alone = run_alone(name, tiny_data, workdir, tiny.no_training)
    expected = dict(np.load(workdir / curriculum.PREDICTIONS_FILE))
    assert len(expected['labels']) == tested
    for field, values in expected.items():
        if values.dtype.kind == 'f':
            np.testing.assert_allclose(written[field], values, atol=1e-5, err_msg=field)
        else:
            np.testing.assert_array_equal(written[field], values, err_msg=field)
    assert results['params_sha256'] == alone['params_sha256']


def test_the_search_chooses_as_one_process(folder, tiny_data, tmp_path):
    run_alone('searched', tiny_data, tmp_path / 'alone')
    for task in ('rot', 'classify'):
        found, expected = (
            json.loads(next(root.glob(f'stages/{task}-*/{SEARCH_FILE}')).read_text())
            for root in (folder / 'searched', tmp_path / 'alone')
        )
        for one, other in zip(found['trials'], expected['trials'], strict=True):
            assert one['lr'] == other['lr']
            # The first epoch's, which are those of the trial even where it is the winner.
            np.testing.assert_allclose(one['losses'][0], other['losses'][0], rtol=1e-3)
            np.testing.assert_allclose(one['values'], other['values'], atol=1 / 32)
        assert [t['epochs'] for t in found['trials']] == [[1], [1]]
        chosen = [t['values'][0] for t in found['trials'] if t['chosen']]
        assert chosen == [max(t['values'][0] for t in found['trials'])]
