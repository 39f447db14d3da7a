"""Stages that end when they get no better, with made-up values and a made-up step."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.evaluation.health import rankme
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import trees
from cxr_jax.store.bundle import read_parts
from cxr_jax.store.files import Damaged
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import early_stop, probing
from cxr_jax.train.early_stop import Criterion, best_row, is_over
from cxr_jax.train.stage import EarlyStopSettings
from data_pipelines.errors import UserError
from tests import tiny

PER_EPOCH = 4
# Best after epoch 3; the seventh is the third in a row behind it that is not better.
VALUES = [0.1, 0.4, 0.6, None, 0.6, 0.5, 0.2, 0.9, 0.9, 0.9]


def rows_of(values):
    return [
        {'epoch': epoch, 'step': PER_EPOCH * epoch, 'value': value}
        for epoch, value in enumerate(values, start=1)
    ]


def test_the_best_epoch():
    assert best_row(rows_of(VALUES[:7]), True)['epoch'] == 3  # of equal ones the first
    assert best_row(rows_of(VALUES[:7]), False)['epoch'] == 1
    assert best_row(rows_of([None, None]), True) is None


@pytest.mark.parametrize(
    ('values', 'patience', 'least', 'ends'),
    [
        (VALUES, 3, 1, 6),
        (VALUES, 4, 1, 7),
        (VALUES, 4, 9, None),  # by then there is a better one
        (VALUES, 3, 7, 7),
        (VALUES, 6, 1, None),
        ([None] * 5, 2, 1, 2),
        ([1.0] * 5, 2, 1, 3),
    ],
)
def test_when_a_stage_ends(values, patience, least, ends):
    settings = EarlyStopSettings(by='probe', patience=patience, least=least)
    rows = rows_of(values)
    over = [epoch for epoch in range(len(rows) + 1) if is_over(rows[:epoch], settings, True)]
    assert (over[0] if over else None) == ends


class Killed(Exception):
    pass


def counting(dies_at=None, stops_at=None):
    """For `around`: a step that is cheap and whose parameters tell how often it was done."""

    def around(step):
        def stepping(state, batch):
            now = int(state.step) + 1
            if now == dies_at:
                raise Killed
            if now == stops_at:
                tiny.signal.raise_signal(tiny.signal.SIGTERM)
            moved = jax.tree.map(lambda leaf: leaf + 1, state.params)
            metrics = {'loss': 1 / now, 'grad_norm': 1.0, 'learning_rate': 0.1}
            return state.replace(step=state.step + 1, params=moved), metrics, {}

        return stepping

    return around


@pytest.fixture
def stage(tiny_data, monkeypatch):
    """Makes a stage that is judged by VALUES; `changes` of its early_stop and checkpoints."""

    def criterion(by, each, mesh):
        return Criterion(lambda state: VALUES[int(state.step) // PER_EPOCH - 1] or np.nan, True)

    monkeypatch.setattr(early_stop, 'criterion', criterion)

    def make(checkpoint_epochs=1.0, **changes):
        changes = {'by': 'probe', 'patience': 4, 'least': 1} | changes
        flat = {f'stage.rot.early_stop.{name}': value for name, value in changes.items()}
        flat |= {'stage.rot.epochs': 10, 'stage.rot.checkpoint_epochs': checkpoint_epochs}
        return tiny.make_stages(tiny_data, 'rot', **flat)['rot']

    return make


def assert_left_epoch_3(each, outcome, trained=7):
    """The parameters are those after 12 steps, and the bundle says so."""
    state = tiny.build_once(each, tiny.fresh_parts(each.encoder), tiny.one_device()).create(
        tiny.fresh_parts(each.encoder), 0.1
    )
    kernel = np.asarray(state.params['head']['linear']['kernel'])
    left = outcome.parts['head']['params']['linear']['kernel']
    np.testing.assert_allclose(left, kernel + 3 * PER_EPOCH, rtol=1e-6)
    told = outcome.description
    assert told['early_stop'] == {
        'by': 'probe', 'epoch': 3, 'step': 12, 'value': 0.6, 'values': VALUES[:trained],
    }  # fmt: skip
    assert (told['epochs'], told['steps']) == (trained, PER_EPOCH * trained)
    assert told['params_sha256'] == trees.sha256(outcome.parts)
    assert trees.sha256(read_parts(outcome.folder)) == told['params_sha256']
    losses = [1 / step for step in range(9, 13)]
    assert told['final_metrics']['loss'] == pytest.approx(np.mean(losses))


def test_it_leaves_its_best_epoch(stage, tmp_path):
    each = stage()
    outcome = tiny.run(each, tmp_path, around=counting(), keep='bundle')
    assert_left_epoch_3(each, outcome)
    assert not (outcome.folder / 'best').exists()
    again = tiny.run(each, tmp_path, around=tiny.no_training)
    assert again.reused and trees.sha256(again.parts) == outcome.description['params_sha256']


@pytest.mark.parametrize('checkpoint_epochs', [1.0, 5.0, 100.0])
@pytest.mark.parametrize('at', [2, 13, 23])
def test_killed_at_any_instant_it_leaves_the_same(at, checkpoint_epochs, stage, tmp_path):
    each = stage(checkpoint_epochs)
    with pytest.raises(Killed):
        tiny.run(each, tmp_path, around=counting(dies_at=at))
    with pytest.raises(Interrupted):
        tiny.run(each, tmp_path, around=counting(stops_at=at))
    assert_left_epoch_3(each, tiny.run(each, tmp_path, around=counting()))


def test_killed_after_its_last_step_it_does_not_go_on(stage, tmp_path, monkeypatch):
    each = stage()

    def killed(*unused):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StageDirectory, 'finish', killed)
        tiny.run(each, tmp_path, around=counting())
    assert_left_epoch_3(each, tiny.run(each, tmp_path, around=tiny.no_training))


def test_what_no_checkpoint_can_ask_for_is_removed(stage, tmp_path):
    """The best so far, and what is newer than the older of the two checkpoints."""
    each, seen = stage(patience=9), []

    def around(step):
        def stepping(state, batch):
            folder = StageDirectory(tmp_path, 'rot', each.key).partial
            seen.append(sorted(int(path.name) for path in (folder / 'best').glob('*')))
            return counting()(step)(state, batch)

        return stepping

    tiny.run(each, tmp_path, around=around)
    by_epoch = [seen[PER_EPOCH * epoch + 3] for epoch in range(10)]
    assert by_epoch[0] == [] and by_epoch[1] == [4] and by_epoch[-1] == [12, 32]
    assert all(12 in found for found in by_epoch[3:])
    assert by_epoch[6] == by_epoch[7] == [12]


def test_a_damaged_best_state_is_told(stage, tmp_path, monkeypatch):
    each, kept = stage(), early_stop.EarlyStop.chosen

    def chosen(self, parts):
        tiny.truncate(StageDirectory(tmp_path, 'rot', each.key).partial / 'best' / '12')
        return kept(self, parts)

    monkeypatch.setattr(early_stop.EarlyStop, 'chosen', chosen)
    with pytest.raises(Damaged, match='best/12'):
        tiny.run(each, tmp_path, around=counting())


def test_a_key_is_of_what_it_is_judged_by(tiny_data):
    def key(tasks='rot', **changes):
        flat = {f'stage.rot.early_stop.{name}': value for name, value in changes.items()}
        return tiny.make_stages(tiny_data, tasks, **flat)['rot'].key

    keys = [key(), *(key(by=by) for by in ('probe', 'loss', 'rank', 'sigreg'))]
    keys += [key(by='rank', patience=2), key(by='rank', least=3)]
    assert len(set(keys)) == len(keys)
    assert key(patience=2, least=3) == keys[0]
    # Labels decide what is probed; the label-free criteria do not know them.
    two = {'data.classes': ('negative', 'typical')}

    def relabelled(by):
        changes = {'stage.rot.early_stop.by': by} | two
        return tiny.make_stages(tiny_data, 'rot', **changes)['rot'].key

    assert relabelled('probe') != keys[1] and relabelled('rank') == keys[3]


@pytest.mark.parametrize(
    ('changes', 'readout', 'told'),
    [
        ({'stage.rot.early_stop.by': 'probe'}, 'none', 'labelled validation images'),
        ({'monitor.probe_epochs': 1}, 'none', 'labelled validation images'),
        ({'monitor.probe_epochs': 1, 'data.folds': 3}, 'classify', 'cross-validation'),
        ({'data.folds': 2, 'stage.rot.early_stop.by': 'loss'}, 'classify', 'early stopping'),
        ({'stage.rot.early_stop.by': 'auc'}, 'classify', 'choose one of'),
    ],
)
def test_what_cannot_be_judged_is_refused(changes, readout, told, tiny_data):
    with pytest.raises(UserError, match=told):
        tiny.make_plan(tiny_data, 'rot', readout, **changes)


def test_features_are_judged_as_they_are(tiny_data):
    """Rank of the frozen features of the training images, probe on the validation images."""
    each = tiny.make_stages(tiny_data, 'rot')['rot']
    mesh, parent = tiny.one_device(), tiny.fresh_parts(each.encoder)
    state = SimpleNamespace(parts=parent)
    features = probing.features_of(each, mesh, state, each.train.corpus)
    value_of, higher = early_stop.criterion('rank', each, mesh)
    assert value_of(state) == pytest.approx(rankme(features)) and higher
    found = probing.probe(each, mesh, state)
    value_of, higher = early_stop.criterion('probe', each, mesh)
    assert value_of(state) == found['ridge'] and higher
    # Features that are the labels are read out without an error, by either.
    labels = {id(part.corpus): part.labels for part in (each.probed.train, each.probed.validation)}

    def given(stage, mesh, state, corpus):
        return np.eye(len(each.probed.names))[labels[id(corpus)]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, 'features_of', given)
        assert probing.probe(each, mesh, state) == {'knn': 1.0, 'ridge': 1.0}
        patch.setattr(probing, 'features_of', lambda *rest: np.nan * given(*rest))
        assert all(np.isnan(value) for value in probing.probe(each, mesh, state).values())


def test_a_probe_that_is_undefined_is_written_as_null(tiny_data, tmp_path, monkeypatch):
    each = tiny.make_stages(tiny_data, 'rot')['rot']
    monkeypatch.setattr(probing, 'probe', lambda *unused: {'knn': np.nan, 'ridge': 0.5})
    monitor = probing.Probes(each, tmp_path, 1, tiny.one_device())
    monitor.begin(0, SimpleNamespace(step=0))
    row = json.loads((tmp_path / 'probes.jsonl').read_text())
    assert row == {'epoch': 0, 'step': 0, 'knn': None, 'ridge': 0.5}
