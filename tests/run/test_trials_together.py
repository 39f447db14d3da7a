"""Trials that train together, as on an accelerator, end as if each had been trained alone."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from cxr_jax.run import search as lr_search
from cxr_jax.runtime import parallel
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.train import loop, validation
from cxr_jax.train.stage import Search, SearchSettings
from tests import tiny


def halving(tiny_data, *rates):
    """A classifier and its search: all rates for an epoch, then a third of them for another."""
    each = tiny.make_stages(tiny_data, 'scratch')['classify']

    def at(rate):
        optimizer = dataclasses.replace(each.optimizer, lr=rate)
        settings = dataclasses.replace(each.settings, optimizer=optimizer)
        return dataclasses.replace(each, settings=settings)

    trials = tuple(map(at, rates))
    search = Search(SearchSettings('halving', epochs=6), trials, trials)
    return dataclasses.replace(each, search=search)


def searched(each, folder, around=lambda step: step):
    """Searches in `folder`; (winner, content of search.json)."""
    folder.mkdir(exist_ok=True)
    with tiny.compiled_once(around):
        programs = validation.Programs(tiny.fresh_parts(each.encoder), tiny.one_device())
        winner = lr_search.search(each, folder, programs)
    return winner, json.loads((folder / 'search.json').read_text())


def left(folder):
    """{file or folder: content} of what a search left, without what depends on the clock."""
    found = {path.relative_to(folder): tiny.curve(path) for path in folder.rglob('metrics.jsonl')}
    for path in folder.rglob('checkpoints/[0-9]'):
        found[path.relative_to(folder)] = tiny.saved(path.parents[1], path.name)
    return found


def test_trials_together_equal_trials_one_by_one(tiny_data, tmp_path, monkeypatch):
    """Values, logs, whole states and their places, but for rounding; one of them diverges.

    The second rung goes on from the checkpoints of the first. Stopped or killed at any moment, the
    search ends with the same bits.
    """
    each = halving(tiny_data, 0.001, 0.0015, 0.002, 1e38)
    _, alone = searched(each, tmp_path / 'alone')
    monkeypatch.setattr(lr_search, 'can_train_together', lambda stages, mesh: len(stages) > 1)
    _, together = searched(each, tmp_path / 'together')
    assert len(together['trials']) == 4
    for one, other in zip(alone['trials'], together['trials'], strict=True):
        for name in ('values', 'losses'):
            one[name], other[name] = (np.array(trial[name], float) for trial in (one, other))
            np.testing.assert_allclose(other.pop(name), one.pop(name), rtol=1e-4)
    assert together == alone
    assert [trial['epochs'] for trial in alone['trials']].count([1, 2]) == 2
    one, other = left(tmp_path / 'alone'), left(tmp_path / 'together')
    assert one.keys() == other.keys() and len(one) == 1 + 2 + 4 + 3 + 2
    for path, content in one.items():
        assert_close(other[path], content)
        rows = content if isinstance(content, list) else []
        assert np.isfinite([row['loss'] for row in rows]).all()

    folder = tmp_path / 'killed'
    for kill in (tiny.sigterm_at(3), tiny.sigterm_at(6)):
        with pytest.raises(Interrupted, match='the search of stage classify stopped and saved'):
            searched(each, folder, kill)
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(loop, '_save_alone', save_one_and_stop)
            searched(each, folder)
    _, found = searched(each, folder, tiny.no_training)
    for path, content in left(folder).items():
        for name, values in other[path].items() if isinstance(content, dict) else ():
            np.testing.assert_array_equal(content[name], values)
        assert isinstance(content, dict) or content == other[path]
    assert left(folder).keys() == other.keys()
    assert not list(folder.glob('trials/together-*'))


def save_one_and_stop(training, state, save=loop._save_alone):
    first = {name: getattr(training, name)[:1] for name in ('stages', 'directories')}
    save(dataclasses.replace(training, **first), state)
    raise Interrupted


def assert_close(found, expected):
    """Rows of a log, or arrays by name."""
    if isinstance(expected, list):
        assert [row['step'] for row in found] == [row['step'] for row in expected]
        found, expected = (
            {name: np.array([row[name] for row in rows]) for name in rows[0]}
            for rows in (found, expected)
        )
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_which_trials_train_together(tiny_data, monkeypatch):
    """On one accelerator, those that differ in their rate alone."""
    stages = list(halving(tiny_data, 0.1, 0.2).search.trials)
    mesh, many = tiny.one_device(), parallel.data_mesh()
    together = functools.partial(lr_search.can_train_together, mesh=mesh)
    assert not together(stages)  # faster one by one on a CPU
    monkeypatch.setattr(lr_search.jax, 'default_backend', lambda: 'gpu')
    assert together(stages) and not together(stages[:1])
    assert not lr_search.can_train_together(stages, many)
    facts = dataclasses.replace(stages[1].facts, batch_size=4)
    assert not together([stages[0], dataclasses.replace(stages[1], facts=facts)])
