"""The certificates see what they are to see; what they certify takes minutes:
python -m scripts.certify matrix, and resume."""

import json
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cxr_jax.store.checkpoint import Checkpoints
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.train.state import TrainState
from data_pipelines.errors import UserError
from scripts.certificates import differences, matrix, program, resume, sets
from tests import tiny


@pytest.fixture
def two(undisturbed, tmp_path):
    """(whole, killed): two folders of one finished stage and its results."""
    folders = tmp_path / 'whole', tmp_path / 'killed'
    for folder in folders:
        (folder / 'run').mkdir(parents=True)
        (folder / 'run' / 'results.json').write_text('{"test": {"auc": 0.5}, "seconds": 1}')
        np.savez(folder / 'run' / 'predictions.npz', scores=np.ones(3))
        source = undisturbed('classify')[2].finished
        shutil.copytree(source, folder / 'stages' / source.name)
    return folders


def stage_of(folder):
    [found] = (folder / 'stages').iterdir()
    return found


def test_equal_runs_are_equal_whatever_the_clock_says(two):
    whole, killed = two
    path = stage_of(killed) / 'bundle.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'wall_seconds': 9, 'resumed': 3}))
    found = differences.compare(whole, killed)
    assert list(found) == [stage_of(whole).name, 'results'] and not any(found.values())


def other_parameter(folder):
    path = stage_of(folder) / 'head.safetensors'
    arrays = load_file(path)
    bias = arrays['params/linear/bias']
    arrays['params/linear/bias'] = np.nextafter(bias, np.float32(1))
    save_file(arrays, path)


def other_loss(folder):
    path = stage_of(folder) / 'metrics.jsonl'
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]['loss'] += 1e-7
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def other_prediction(folder):
    np.savez(folder / 'run' / 'predictions.npz', scores=np.array([1, 1, 2.0]))


def other_result(folder):
    (folder / 'run' / 'results.json').write_text('{"test": {"auc": 0.6}}')


def no_stage(folder):
    shutil.rmtree(stage_of(folder))


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (other_parameter, r'head.safetensors: params/linear/bias, [1-9]\d* of 16 bytes differ'),
        (other_loss, 'metrics.jsonl: /3/loss: '),
        (other_prediction, 'predictions: scores, 2 of 24 bytes differ'),
        (other_result, 'results.json: /test/auc: 0.5 and 0.6'),
        (no_stage, 'only in .*whole'),
    ],
)
def test_what_differs_is_told(change, told, two):
    whole, killed = two
    change(killed)
    [line] = [line for lines in differences.compare(whole, killed).values() for line in lines]
    assert re.search(told, line), line


def test_a_state_is_compared_by_its_leaves(two, monkeypatch):
    whole, killed = two
    saved = tiny.saved(stage_of(whole))
    name = next(name for name in saved if name.startswith('opt_state') and saved[name].size > 1)
    other = saved | {name: np.nextafter(saved[name], np.float32(9))}
    states = iter([saved, other])
    monkeypatch.setattr(differences.tiny, 'saved', lambda folder, step: next(states))
    [line] = differences.stages_differ(stage_of(whole), stage_of(killed))
    assert line.startswith(f'state: {name}, ')


def test_the_fault_leaves_an_entry_out(monkeypatch):
    queue, other = np.ones((2, 3)), {'pointer': np.ones(1)}
    fields = dict.fromkeys(TrainState.__dataclass_fields__)
    state = TrainState(**fields | {'extra': {'queue': queue, **other}})
    monkeypatch.setattr(Checkpoints, 'restore', lambda self, like: state)
    program.leave_out('queue')
    found = Checkpoints.restore(None, None).extra
    assert not found['queue'].any() and found['queue'].shape == (2, 3) and found['pointer'].all()


def made_up_runs(*stages):
    return [SimpleNamespace(stages=own) for own in stages]


def test_every_stage_is_killed_and_the_moments_are_in_order():
    runs = made_up_runs(('moco', 'rot', 'classify'), ('knn',))
    found = resume.moments(runs, 40, random.Random(3))
    assert found == resume.moments(runs, 40, random.Random(3))
    assert found != resume.moments(runs, 40, random.Random(4))
    assert sum(map(len, found)) == 40
    for run, own in zip(runs, found, strict=True):
        assert {m.stage for m in own if m.kind in ('step', 'save')} == set(run.stages)
        places = [(run.stages.index(m.stage), m.kind == 'change', m.step) for m in own]
        assert places == sorted(places)
    assert {m.kind for own in found for m in own} == set(resume.KINDS)
    assert sum(map(len, resume.moments(runs, 2, random.Random(0)))) == 2


def test_the_runs_have_every_task(monkeypatch, tmp_path):
    monkeypatch.setattr(sets, 'open_for', lambda folder, readout: readout)
    runs = resume.runs_of(sets.asked_for(''), tmp_path, 'whole')
    assert [stage for run in runs for stage in run.stages if stage in TASKS] == list(TASKS)
    assert {run.readout for run in runs} == {*READOUTS}
    [alone] = resume.runs_of({'moco'}, tmp_path, 'whole')
    assert alone.stages == ('moco',)
    with pytest.raises(UserError, match='no task: nothing'):
        sets.asked_for('nothing')


def test_the_table_of_pairs():
    rows = {
        ('moco', 'rot'): {'failed': {}}, ('rot', 'rot'): {'failed': {'T': '', 'D': ''}},
        ('moco', 'knn'): {'failed': {'R': ''}},
    }  # fmt: skip
    assert matrix.table(rows).splitlines() == ['     rot knn', 'moco  .   R ', 'rot   TD    ']
    assert matrix.wanted('moco', 'rot', {'rot'}) and matrix.wanted('moco', 'rot', {'rot', 'moco'})
    assert not matrix.wanted('moco', 'rot', {'rot', 'knn'})


def test_pairs_that_passed_with_this_code_are_not_checked_again(tmp_path):
    def row(after, **changes):
        told = {'before': 'moco', 'after': after, 'failed': {}, 'code': matrix.code_hash()}
        return json.dumps(told | changes) + '\n'

    lines = row('rot'), row('knn', code='other'), row('probe', failed={'T': 'x'})
    (tmp_path / matrix.ROWS).write_text(''.join(lines))
    assert list(matrix.passed_before(tmp_path)) == [('moco', 'rot')]
