"""Planning changes nothing and trains nothing; what it chose for the user arrives in the report."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from cxr_jax.run import curriculum
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.plan import make_plan
from cxr_jax.store.bundle import read_description
from data_pipelines.errors import UserError
from tests import tiny

AUTO = {'stage.moco.task.queue_size': 'auto', 'stage.moco.task.hidden': 'auto'}
SEARCH = {
    'stage.moco.epochs': 1, 'encoder.width': 4,
    'stage.moco.search.protocol': 'thesis', 'stage.moco.search.epochs': 1,
    'stage.moco.search.count': 1, 'stage.moco.search.batch_sizes': (8, 12),
}  # fmt: skip


@pytest.mark.parametrize('changes', [{}, SEARCH, {'data.folds': 3}])
def test_planning_is_pure(sets, changes):
    config = tiny.make_config(sets['c'], 'moco', **AUTO | changes)
    before, opened = copy.deepcopy(config.to_dict()), open_sets(config)
    plans = [make_plan(ConfigDict(config).lock(), opened, 1), make_plan(config, opened, 1)]
    assert config.to_dict() == before and config.stage.moco.task.queue_size == 'auto'
    one, other = ([stage.key for stage in plan.stages] for plan in plans)
    assert one == other and plans[0].notes == plans[1].notes
    for plan in plans:
        assert [note.split(' ')[0] for note in plan.notes['moco'][:2]] == ['queue_size', 'hidden']


def test_a_part_that_does_not_fit_its_successor_is_told_before_anything_trains(sets):
    """A decoder goes on with the settings it was made with; behind another task it is new."""
    wider = {'stage.genesis.task.width': 2, 'stage.genesis2.task.width': 3}
    with pytest.raises(UserError, match=r'decoder that stage genesis leaves for genesis2 .*fit'):
        tiny.make_plan(sets['c'], 'genesis_genesis', 'none', **wider)
    tiny.make_plan(sets['c'], 'genesis_genesis', 'none', **wider | {'stage.genesis.task.width': 3})
    tiny.make_plan(sets['c'], 'genesis_rot_genesis', 'none', **wider)


def test_queues_follow_the_batch_sizes_that_are_tried(sets):
    """84 training images: the largest multiples of 8 and of 12 within them."""
    [stage] = tiny.make_plan(sets['c'], 'moco', 'none', **AUTO | SEARCH).stages
    found = {each.facts.batch_size: each.task.queue_size for each in stage.search.winners}
    assert found == {8: 80, 12: 84}
    assert stage.search.trials == stage.search.winners
    told = tiny.make_plan(sets['c'], 'moco', 'none', **AUTO | SEARCH).notes['moco'][-1]
    assert told == 'search thesis: rates 0.01, batches of 8, 12, 1 epochs'


def test_a_search_of_the_batch_size_with_a_queue_of_auto_trains(sets, tmp_path):
    plan = tiny.make_plan(sets['c'], 'moco', 'none', **AUTO | SEARCH, keep='all')
    with tiny.compiled_once(), contextlib.redirect_stdout(io.StringIO()) as printed:
        results = curriculum.run(plan, tmp_path / 'run')
    [row] = results['stages']
    trials = row['search']['trials']
    assert [trial['batch_size'] for trial in trials] == [8, 12]
    values = [trial['values'][-1] for trial in trials]
    assert np.isfinite(values).all()
    best = int(np.argmin(values))
    assert [trial['chosen'] for trial in trials] == [k == best for k in (0, 1)]
    assert row['batch_size'] == (8, 12)[best] and row['steps'] == (10, 7)[best]
    described = read_description(tmp_path / 'stages' / results['bundles'][0])
    assert described['key'] == plan.stages[0].key
    notes = json.loads((tmp_path / 'run' / 'results.json').read_text())['stages'][0]['notes']
    assert any(note.startswith('queue_size = 80') for note in notes)
    assert any('was chosen after 2 epochs of trials' in note for note in notes)
    assert 'search thesis' in printed.getvalue()
