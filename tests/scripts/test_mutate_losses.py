"""Bugs can be planted, and every task has one; whether the tests catch them takes minutes:
python -m scripts.mutate_losses."""

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


def test_a_bug_that_nothing_catches_survives(monkeypatch, capsys, tmp_path):
    """The verdict is pytest's exit code; without a bug the tests must pass."""
    bug = Bug('rot', 'none', 'tasks/rot.py', 'TURNS = 4', 'TURNS = 5')
    monkeypatch.setattr(mutate_losses, 'BUGS', (bug,))
    codes = iter([(0, ''), (0, ''), (0, ''), (1, 'FAILED tests/x.py::test_y - Error\n'), (1, '')])
    monkeypatch.setattr(mutate_losses, 'run_tests', lambda root, tests: next(codes))
    monkeypatch.setattr(mutate_losses, 'copy_to', lambda folder: shutil.copytree(
        mutate_losses.ROOT / 'cxr_jax' / 'tasks', folder / 'cxr_jax' / 'tasks'))  # fmt: skip
    assert mutate_losses.main([]) == 1 and 'SURVIVED' in capsys.readouterr().out
    assert mutate_losses.main([]) == 0 and 'test_y' in capsys.readouterr().out
    assert mutate_losses.main([]) == 1
