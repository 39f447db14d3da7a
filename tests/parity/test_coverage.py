"""Every task of the registries has a parity module with tests in it."""

import pathlib

import pytest

from cxr_jax.tasks import READOUTS, TASKS

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize('name', TASKS | READOUTS)
def test_every_task_is_held_against_a_reference(name):
    path = HERE / f'test_{name}.py'
    assert path.is_file(), f'{path.name} is missing: see reference.py'
    text = path.read_text()
    assert 'def test_' in text and 'assert_' in text and 'parity' in text
