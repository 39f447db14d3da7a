"""The search of the learning rate: candidates, rungs, survivors, and what continues."""

import dataclasses
import json
import math
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from configs.curriculum import stage_config
from cxr_jax.evaluation import metrics
from cxr_jax.evaluation import predict as evaluate
from cxr_jax.run import search as lr_search
from cxr_jax.run import together as trials_together
from cxr_jax.run import validation
from cxr_jax.run.search import candidate_rates, rungs
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train.loop import NotFinite
from data_pipelines.errors import UserError
from tests import tiny


def search_config(**changes):
    return ConfigDict(stage_config('rot').search.to_dict() | {'protocol': 'thesis'} | changes)


def test_the_reference_grids():
    assert candidate_rates(search_config(), 0) == [0.01, 0.058, 0.106, 0.154, 0.202, 0.25]
    eleven = candidate_rates(search_config(high=0.3, count=11), 0)
    np.testing.assert_allclose(eleven, [0.01 + 0.029 * k for k in range(11)])
    decades = candidate_rates(search_config(low=1e-3, high=1.0, count=4, log=True), 0)
    np.testing.assert_allclose(decades, [1e-3, 1e-2, 1e-1, 1])


@pytest.mark.parametrize('log', [False, True])
def test_sampled_rates_are_uniform_in_their_range(log):
    config = search_config(protocol='sampled', low=1e-4, high=0.6, count=2000, log=log)
    rates = np.array(candidate_rates(config, 1))
    low, high = (1e-4, 0.6) if not log else (math.log(1e-4), math.log(0.6))
    places = ((np.log(rates) if log else rates) - low) / (high - low)
    assert places.min() >= 0 and places.max() <= 1
    np.testing.assert_allclose(np.sort(places), (np.arange(2000) + 0.5) / 2000, atol=0.04)
    assert candidate_rates(config, 1) == rates.tolist() != candidate_rates(config, 2)


def test_rungs():
    assert rungs('thesis', 6, 20) == [20] and rungs('sampled', 10, 4) == [4]
    assert rungs('halving', 9, 9) == [1, 3]
    assert rungs('halving', 6, 20) == [2, 7]
    assert rungs('halving', 27, 9) == [1, 3]  # never less than an epoch
    assert rungs('halving', 1, 9) == [3]


QUALITY = {0.1: 5.0, 0.2: 1.0, 0.3: 9.0, 0.4: 8.0, 0.5: 2.0, 0.6: 3.0, 0.7: 4.0, 0.8: 6.0, 0.9: 7.0}


@pytest.fixture
def made_up(monkeypatch):
    """(make stage, calls): training is replaced by QUALITY, one step an epoch."""
    calls = []

    def make(protocol, rates, judged_by='accuracy', epochs=9):
        def stage(lr):
            return SimpleNamespace(
                name='rot', key='k', content={}, total_steps=9,
                config=ConfigDict({'optimizer': {'lr': lr}}),
                facts=SimpleNamespace(batch_size=4, steps_per_epoch=1),
                task=SimpleNamespace(judged_by=judged_by, higher_is_better=judged_by != 'loss'),
                search=None,
            )  # fmt: skip

        whole = stage(0.1)
        trials = tuple(map(stage, rates))
        whole.search = SimpleNamespace(
            protocol=protocol, epochs=epochs, trials=trials, winners=trials
        )
        return whole

    def train(stage, program, directory, until, watch):
        lr, saved = stage.config.optimizer.lr, directory / 'checkpoints'
        first = max((int(path.name) for path in saved.glob('*')), default=0)
        for step in range(first + 1, until + 1):
            if QUALITY[lr] is None:
                raise NotFinite('diverged')
            calls.append(lr)
            with open(directory / 'metrics.jsonl', 'a') as log:
                log.write(json.dumps({'step': step, 'loss': lr}) + '\n')
            watch(SimpleNamespace(step=step, lr=lr))
        (saved / str(until)).mkdir(parents=True)

    monkeypatch.setattr(lr_search, 'train', train)
    monkeypatch.setattr(lr_search.dataclasses, 'replace', lambda stage, **changes: stage)
    programs = SimpleNamespace(
        mesh=tiny.one_device(),
        of=lambda stage: None, validator=lambda stage: lambda state: QUALITY[state.lr]
    )
    return make, calls, programs


def test_halving_trains_a_third_on_at_each_rung(made_up, tmp_path):
    make, calls, programs = made_up
    winner = lr_search.search(make('halving', sorted(QUALITY)), tmp_path, programs)
    assert winner.config.optimizer.lr == 0.3
    spent = {lr: calls.count(lr) for lr in QUALITY}
    assert spent == dict.fromkeys(QUALITY, 1) | {0.3: 3, 0.4: 3, 0.9: 3}
    found = json.loads((tmp_path / 'search.json').read_text())
    assert found['total_epochs'] == len(calls) == 15 <= 0.4 * 81
    assert [t['lr'] for t in found['trials'] if t['chosen']] == [0.3]
    assert [t['rungs'] for t in found['trials'] if t['lr'] in (0.3, 0.1)] == [[1], [1, 3]]
    # Its files are the stage's own now; started again, nothing is trained twice.
    assert (tmp_path / 'checkpoints' / '3').is_dir()
    assert lr_search.search(make('halving', sorted(QUALITY)), tmp_path, programs) and (
        len(calls) == 15
    )


def test_a_loss_is_better_when_it_is_lower(made_up, tmp_path):
    make, _, programs = made_up
    winner = lr_search.search(make('thesis', sorted(QUALITY), 'loss'), tmp_path, programs)
    assert winner.config.optimizer.lr == 0.2


def test_diverged_candidates_come_last(made_up, tmp_path, monkeypatch):
    make, _, programs = made_up
    monkeypatch.setitem(QUALITY, 0.3, None)
    winner = lr_search.search(make('thesis', sorted(QUALITY)), tmp_path, programs)
    assert winner.config.optimizer.lr == 0.4
    found = json.loads((tmp_path / 'search.json').read_text())
    assert [t['values'] for t in found['trials'] if t['lr'] == 0.3] == [[None]]
    monkeypatch.setitem(QUALITY, 0.4, None)
    with pytest.raises(UserError, match='Every candidate .* diverged'):
        lr_search.search(make('thesis', [0.3, 0.4]), tmp_path / 'other', programs)


THESIS = {
    'stage.rot.search.protocol': 'thesis', 'stage.rot.search.low': 0.01,
    'stage.rot.search.high': 0.05, 'stage.rot.search.count': 2, 'stage.rot.search.epochs': 1,
}  # fmt: skip


def plain_run(tiny_data, store, rate):
    each = tiny.make_stages(tiny_data, 'rot', **{'stage.rot.optimizer.lr': rate})['rot']
    return tiny.run(each, tiny_data, store), StageDirectory(store, 'rot', each.key)


@pytest.mark.parametrize('protocol', ['thesis', 'sampled'])
def test_the_winner_is_an_uninterrupted_run_at_its_rate(protocol, tiny_data, tmp_path):
    """Bit for bit, the whole state and the log, though the search is killed in its second trial."""
    changes = THESIS | {
        'stage.rot.search.protocol': protocol, 'stage.rot.search.fraction': 0.5
    }  # fmt: skip
    each = tiny.make_stages(tiny_data, 'rot', **changes)['rot']
    images = {trial.facts.images for trial in each.search.trials}
    assert images == {34 if protocol == 'thesis' else 17} and each.facts.images == 34
    stops = iter([Interrupted])

    def killed_once(step):
        def stepping(state, batch):
            if int(state.step) == 1 and float(state.lr) > 0.02:
                for stop in stops:
                    raise stop
            return step(state, batch)

        return stepping

    if protocol == 'thesis':
        with pytest.raises(Interrupted):
            tiny.run(each, tiny_data, tmp_path, around=killed_once)
    outcome = tiny.run(each, tiny_data, tmp_path)
    found = outcome.manifest['search']
    values = [trial['values'][-1] for trial in found['trials']]
    best = found['trials'][int(np.argmax(values))]
    assert best['chosen'] and best['lr'] == outcome.manifest['learning_rate']
    plain, directory = plain_run(tiny_data, tmp_path, best['lr'])
    assert plain.manifest['learning_rate'] == best['lr']
    tiny.assert_same_training(StageDirectory(tmp_path, 'rot', each.key), directory)
    assert tiny.run(each, tiny_data, tmp_path, around=tiny.no_training).reused


def test_the_classifier_is_judged_by_validation_balanced_accuracy(tiny_data, tmp_path):
    """Against evaluate.predict on the validation split with the state that was valued."""
    each = tiny.make_stages(tiny_data, 'scratch')['classify']
    backbone, fresh = tiny.network_of(tiny_data)
    with tiny.compiled_once():
        programs = validation.Programs(backbone, fresh, tiny.one_device())
        state = programs.of(each).create(fresh, 0.1)
        value = programs.validator(each)(state)
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    found = evaluate.predict(each.task, backbone, variables, tiny_data, tiny.one_device(),
                             'full', 'validation', 5)  # fmt: skip
    predicted = found.probabilities.argmax(1)
    recall = [np.mean(predicted[found.labels == k] == k) for k in np.unique(found.labels)]
    assert value == pytest.approx(np.mean(recall), rel=1e-6)
    confusion = metrics.confusion_matrix(found.labels, predicted, 4)
    assert value == pytest.approx(np.nanmean(metrics.class_accuracies(confusion)))


def test_batch_sizes_are_candidates_too(tiny_data):
    changes = THESIS | {'stage.rot.search.batch_sizes': (4, 8)}
    trials = tiny.make_stages(tiny_data, 'rot', **changes)['rot'].search.trials
    assert [(t.facts.batch_size, t.config.optimizer.lr) for t in trials] == [
        (4, 0.01), (4, 0.05), (8, 0.01), (8, 0.05)
    ]  # fmt: skip
    assert [t.facts.steps_per_epoch for t in trials] == [8, 8, 4, 4]
    sampled = changes | {
        'stage.rot.search.protocol': 'sampled', 'stage.rot.search.fraction': 0.5
    }  # fmt: skip
    search = tiny.make_stages(tiny_data, 'rot', **sampled)['rot'].search
    for trial, winner in zip(search.trials, search.winners, strict=True):
        assert trial.config.optimizer.lr == winner.config.optimizer.lr
        assert trial.facts.batch_size == winner.facts.batch_size
        assert (trial.facts.images, winner.facts.images) == (17, 34)
        assert (trial.config.epochs, winner.config.epochs) == (1, 2)


def test_trials_together_equal_trials_one_by_one(tiny_data, tmp_path, monkeypatch):
    """As on an accelerator: values, whole states and logs within 1e-5; also when it is killed."""
    each = tiny.make_stages(tiny_data, 'rot', **THESIS)['rot']
    kinds = {'alone': tmp_path / 'alone', 'together': tmp_path / 'together'}
    backbone, fresh = tiny.network_of(tiny_data)
    with tiny.compiled_once():
        programs = validation.Programs(backbone, fresh, tiny.one_device())
        for folder in kinds.values():
            folder.mkdir()
        lr_search.search(each, kinds['alone'], programs)
        monkeypatch.setattr(lr_search, 'can_train_together', lambda stages, mesh: bool(stages))
        stop = mock.patch.object(trials_together, '_save_alone', side_effect=Interrupted)
        with stop, pytest.raises(Interrupted):
            lr_search.search(each, kinds['together'], programs)
        with mock.patch.object(lr_search, 'train', side_effect=AssertionError):
            lr_search.search(each, kinds['together'], programs)
    alone, together = (json.loads((k / 'search.json').read_text()) for k in kinds.values())
    for one, other in zip(alone['trials'], together['trials'], strict=True):
        assert (one['lr'], one['chosen']) == (other['lr'], other['chosen'])
        np.testing.assert_allclose(other['values'], one['values'], rtol=1e-5)
        np.testing.assert_allclose(other['losses'], one['losses'], rtol=1e-5)
    for trial in (kinds['alone'] / 'trials').iterdir():
        leaves = [
            jax.tree.leaves(restored(kind / 'trials' / trial.name)) for kind in kinds.values()
        ]
        for one, other in zip(*leaves, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def restored(directory):
    """The TrainState saved last, as a tree of arrays."""
    path = directory.resolve() / 'checkpoints' / '4' / 'default'
    with ocp.StandardCheckpointer() as checkpointer:
        return jax.device_get(checkpointer.restore(path))


def test_too_little_memory_falls_back_to_one_by_one(tiny_data, tmp_path, monkeypatch):
    each = tiny.make_stages(tiny_data, 'rot', **THESIS)['rot']
    stages = list(each.search.trials)

    def exhausted(*unused):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

    monkeypatch.setattr(trials_together, '_train', exhausted)
    folders = [tmp_path / 'a', tmp_path / 'b']
    args = stages, None, folders, tmp_path / 'scratch', 4, None
    assert trials_together.train_together(*args) is None
    monkeypatch.setattr(trials_together.jax, 'default_backend', lambda: 'gpu')
    assert trials_together.can_train_together(stages, tiny.one_device())
    assert not trials_together.can_train_together(stages[:1], tiny.one_device())
    other = dataclasses.replace(stages[1], facts=dataclasses.replace(stages[1].facts, batch_size=4))
    assert not trials_together.can_train_together([stages[0], other], tiny.one_device())
