"""Every task of the registry as a later stage: takes over, is stopped, goes on, hands over.

Every ordered pair of tasks: python -m scripts.certify matrix. One device against four:
test_devices.
"""

import functools

import jax
import numpy as np
import pytest

from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import trees
from cxr_jax.store.stages import StageDirectory
from cxr_jax.tasks import TASKS
from tests import tiny


def before(name):
    """Name of the stage before: another task's, so that nothing is alike by chance."""
    return 'relloc' if name == 'rot' else 'rot'


@pytest.fixture(scope='module')
def later(tiny_data, undisturbed, tmp_path_factory):
    """Task -> (Stage, parts that it starts from, Outcome, StageDirectory), trained once."""

    @functools.cache
    def train(name):
        store = tmp_path_factory.mktemp(name)
        stage = tiny.make_stages(tiny_data, f'{before(name)}_{name}')[name]
        first, left, _ = undisturbed(before(name))
        assert stage.parent_key == first.key
        outcome = tiny.run(stage, store, left.parts)
        return stage, left.parts, outcome, StageDirectory(store, name, stage.key)

    return train


@pytest.mark.parametrize('name', TASKS)
def test_it_takes_over_what_was_left(name, later, tmp_path):
    """The encoder and the parts that it goes on with, exactly; nothing else of the stage before."""
    stage, left, _, _ = later(name)
    state = tiny.first_state(stage, tmp_path, left)
    assert state.step == 0
    for part in {*stage.task.takes} & left.keys() & state.params.keys():
        assert trees.sha256(state.params[part]) == trees.sha256(left[part]['params']), part
        stats = trees.sha256(state.batch_stats[part])
        assert stats == trees.sha256(left[part]['batch_stats']), part
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize('name', TASKS)
def test_it_trains_and_hands_over(name, tiny_data, later, tmp_path):
    """Every part that it leaves has moved; a classifier behind it starts from its encoder."""
    stage, left, outcome, directory = later(name)
    assert len({row['loss'] for row in outcome.metrics}) == tiny.STEPS
    assert outcome.parts.keys() == set(stage.task.leaves)
    first = tiny.saved(directory.finished, tiny.STEPS // 2)
    last = tiny.saved(directory.finished, tiny.STEPS)
    for part in stage.task.leaves:
        names = [leaf for leaf in first if leaf.startswith(f'params/{part}/')]
        assert any(np.any(first[leaf] != last[leaf]) for leaf in names), part
    readout = tiny.make_stages(tiny_data, f'{before(name)}_{name}')['classify']
    assert readout.parent_key == stage.key
    state = tiny.first_state(readout, tmp_path, outcome.parts)
    encoder = outcome.parts['encoder']
    assert trees.sha256(encoder) != trees.sha256(left['encoder'])
    assert trees.sha256(state.params['encoder']) == trees.sha256(encoder['params'])
    assert trees.sha256(state.batch_stats['encoder']) == trees.sha256(encoder['batch_stats'])


@pytest.mark.parametrize('name', TASKS)
def test_interrupted_equals_uninterrupted(name, later, tmp_path):
    """Bit for bit, the whole state, the log and the bundle, from what is on the disk alone."""
    stage, left, _, undisturbed = later(name)
    with pytest.raises(Interrupted, match=f'stage {name} stopped and saved at step 5 of 8'):
        tiny.run(stage, tmp_path, left, around=tiny.sigterm_at(5))
    outcome = tiny.run(stage, tmp_path, left)
    assert not outcome.reused and outcome.description['resumed'] == 1
    tiny.assert_same_training(StageDirectory(tmp_path, name, stage.key), undisturbed)
    assert [row['session'] for row in outcome.metrics] == [1] * 5 + [2] * 3
    seconds = [row['seconds'] for row in outcome.metrics]
    assert seconds == sorted(seconds) and outcome.description['wall_seconds'] >= seconds[-1]
