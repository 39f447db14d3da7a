"""Bugs can be planted, and every task has one; whether the tests catch them takes minutes:
python -m scripts.mutate_losses."""

import re
import shutil

import pytest

from cxr_jax.tasks import READOUTS, TASKS
from scripts import mutate_losses
from scripts.planted_bugs import BUGS, Bug


@pytest.mark.parametrize('bug', BUGS, ids=lambda bug: f'{bug.task}: {bug.name}')
def test_every_bug_can_be_planted(bug, tmp_path):
    target = tmp_path / 'cxr_jax' / bug.file
    target.parent.mkdir(parents=True)
    shutil.copy(mutate_losses.ROOT / 'cxr_jax' / bug.file, target)
    mutate_losses.plant(bug, tmp_path)
    compile(target.read_text(), bug.file, 'exec')
    for test in mutate_losses.tests_of(bug):
        assert (mutate_losses.ROOT / test).is_file(), test


def test_every_task_has_a_bug():
    assert {*TASKS, *READOUTS} <= {bug.task for bug in BUGS}
    assert len({(bug.task, bug.name) for bug in BUGS}) == len(BUGS) > 20


def test_a_text_that_is_gone_or_stands_twice_is_told(tmp_path):
    (tmp_path / 'cxr_jax').mkdir()
    (tmp_path / 'cxr_jax' / 'one.py').write_text('a = 1\na = 1\n')
    for old in ('b = 1', 'a = 1'):
        with pytest.raises(ValueError, match='one.py has [02] times'):
            mutate_losses.plant(Bug('rot', 'gone', 'one.py', old, 'c'), tmp_path)


@pytest.mark.parametrize(
    ('codes', 'code', 'told'),
    [
        ([0, 0], 1, 'SURVIVED'),
        ([0, 1], 0, 'caught .*test_y'),
        ([0, 2], 1, 'BROKEN'),
        ([1], 1, 'BROKEN .*fails without the bug'),
    ],
)
def test_the_verdict_is_pytests_exit_code(codes, code, told, monkeypatch, capsys):
    """Of the tests without the bug first, which must pass."""
    bug = Bug('rot', told, 'tasks/rot.py', 'TURNS = 4', 'TURNS = 5')
    rest, copied = iter(codes), []

    def run(root, tests):
        if root != mutate_losses.ROOT:
            copied.append((root / 'cxr_jax' / 'tasks' / 'rot.py').read_text())
        return next(rest), 'FAILED tests/x.py::test_y - Error\n'

    def copy_to(folder):
        source = mutate_losses.ROOT / 'cxr_jax' / 'tasks'
        shutil.copytree(source, folder / 'cxr_jax' / 'tasks')

    monkeypatch.setattr(mutate_losses, 'BUGS', (bug,))
    monkeypatch.setattr(mutate_losses, 'run_tests', run)
    monkeypatch.setattr(mutate_losses, 'copy_to', copy_to)
    mutate_losses.sound.cache_clear()
    assert mutate_losses.main([]) == code
    assert re.match(told, capsys.readouterr().out)
    assert all('TURNS = 5' in text for text in copied) and len(copied) == len(codes) - 1
