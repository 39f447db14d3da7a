"""The search of the learning rate: candidates, rungs, survivors, and what continues."""

import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.run import search as lr_search
from cxr_jax.run.candidates import candidate_rates
from cxr_jax.run.search import rungs
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import program
from cxr_jax.train.loop import NotFinite
from cxr_jax.train.monitor import EachEpoch
from cxr_jax.train.stage import SearchSettings
from data_pipelines.errors import UserError
from tests import tiny


def search_settings(**changes):
    return SearchSettings(**({'protocol': 'thesis'} | changes))


def test_the_reference_grids():
    assert candidate_rates(search_settings(), 0) == [0.01, 0.058, 0.106, 0.154, 0.202, 0.25]
    eleven = candidate_rates(search_settings(high=0.3, count=11), 0)
    np.testing.assert_allclose(eleven, [0.01 + 0.029 * k for k in range(11)])
    decades = candidate_rates(search_settings(low=1e-3, high=1.0, count=4, log=True), 0)
    np.testing.assert_allclose(decades, [1e-3, 1e-2, 1e-1, 1])


@pytest.mark.parametrize('log', [False, True])
def test_sampled_rates_are_uniform_in_their_range(log):
    config = search_settings(protocol='sampled', low=1e-4, high=0.6, count=2000, log=log)
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
                name='rot', key='k', content={}, total_steps=9, program_key=(),
                optimizer=SimpleNamespace(lr=lr),
                facts=SimpleNamespace(batch_size=4, steps_per_epoch=1),
                task=SimpleNamespace(judged_by=judged_by), search=None,
            )  # fmt: skip

        whole = stage(0.1)
        trials = tuple(map(stage, rates))
        whole.search = SimpleNamespace(
            settings=search_settings(protocol=protocol, epochs=epochs), trials=trials,
            winners=trials,
        )  # fmt: skip
        return whole

    def train(training, until):
        (stage,), (directory,), (watch,) = (
            training.stages, training.directories, training.monitors
        )  # fmt: skip
        lr, saved = stage.optimizer.lr, directory / 'checkpoints'
        first = max((int(path.name) for path in saved.glob('*')), default=0)
        for step in range(first + 1, until + 1):
            if QUALITY[lr] is None:
                raise NotFinite('diverged')
            calls.append(lr)
            with open(directory / 'metrics.jsonl', 'a') as log:
                log.write(json.dumps({'step': step, 'loss': lr}) + '\n')
            watch.epoch_ended(step, np.array(lr))
        (saved / str(until)).mkdir(parents=True)

    monkeypatch.setattr(lr_search, 'train', train)
    monkeypatch.setattr(lr_search.dataclasses, 'replace', lambda stage, **changes: stage)
    programs = SimpleNamespace(
        mesh=tiny.one_device(),
        of=lambda stage: None,
        validator=lambda stage: lambda state: QUALITY[float(state)],
    )
    return make, calls, programs


def test_halving_trains_a_third_on_at_each_rung(made_up, tmp_path):
    make, calls, programs = made_up
    winner = lr_search.search(make('halving', sorted(QUALITY)), tmp_path, programs)
    assert winner.optimizer.lr == 0.3
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
    assert winner.optimizer.lr == 0.2


def test_diverged_candidates_come_last(made_up, tmp_path, monkeypatch):
    make, _, programs = made_up
    monkeypatch.setitem(QUALITY, 0.3, None)
    winner = lr_search.search(make('thesis', sorted(QUALITY)), tmp_path, programs)
    assert winner.optimizer.lr == 0.4
    found = json.loads((tmp_path / 'search.json').read_text())
    assert [t['values'] for t in found['trials'] if t['lr'] == 0.3] == [[None] * 9]
    monkeypatch.setitem(QUALITY, 0.4, None)
    with pytest.raises(UserError, match='Every candidate .* diverged'):
        lr_search.search(make('thesis', [0.3, 0.4]), tmp_path / 'other', programs)


def test_a_state_that_is_not_finite_has_no_value(made_up, tmp_path, monkeypatch):
    """Some measures of its predictions are numbers all the same."""
    make, _, programs = made_up
    one_by_one = lr_search.train
    programs.validator = lambda stage: lambda state: QUALITY[stage.optimizer.lr]

    def train(training, until):
        (stage,), (watch,) = training.stages, training.monitors
        left = math.nan if stage.optimizer.lr == 0.3 else 1.0
        monitors = (EachEpoch(lambda epoch, state: watch.epoch_ended(epoch, left * state)),)
        one_by_one(program.Training([stage], None, training.directories, monitors=monitors), until)

    monkeypatch.setattr(lr_search, 'train', train)
    assert lr_search.search(make('thesis', [0.2, 0.3]), tmp_path, programs).optimizer.lr == 0.2


THESIS = {
    'stage.rot.search.protocol': 'thesis', 'stage.rot.search.low': 0.01,
    'stage.rot.search.high': 0.05, 'stage.rot.search.count': 2, 'stage.rot.search.epochs': 1,
}  # fmt: skip


def plain_run(tiny_data, store, rate):
    each = tiny.make_stages(tiny_data, 'rot', **{'stage.rot.optimizer.lr': rate})['rot']
    return tiny.run(each, store), StageDirectory(store, 'rot', each.key)


def assert_on_half(trial, whole):
    """It trains on all images of half of the patients."""
    groups = whole.train.corpus.groups
    own = set(trial.train.corpus.groups)
    assert len(own) == round(len(set(groups)) / 2 + 0.01) and len(groups) == 34
    assert trial.facts.images == np.isin(groups, list(own)).sum() < 34


@pytest.mark.parametrize('protocol', ['thesis', 'sampled'])
def test_the_winner_is_an_uninterrupted_run_at_its_rate(protocol, tiny_data, tmp_path):
    """Bit for bit, the whole state and the log, though the search is killed in its second trial."""
    changes = THESIS | {
        'stage.rot.search.protocol': protocol, 'stage.rot.search.fraction': 0.5
    }  # fmt: skip
    each = tiny.make_stages(tiny_data, 'rot', **changes)['rot']
    for trial in each.search.trials:
        if protocol == 'sampled':
            assert_on_half(trial, each)
        else:
            assert trial.facts.images == 34
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
            tiny.run(each, tmp_path, around=killed_once)
    outcome = tiny.run(each, tmp_path)
    found = outcome.description['search']
    values = [trial['values'][-1] for trial in found['trials']]
    best = found['trials'][int(np.argmax(values))]
    assert best['chosen'] and best['lr'] == outcome.description['learning_rate']
    plain, directory = plain_run(tiny_data, tmp_path, best['lr'])
    assert plain.description['learning_rate'] == best['lr']
    tiny.assert_same_training(StageDirectory(tmp_path, 'rot', each.key), directory)
    assert tiny.run(each, tmp_path, around=tiny.no_training).reused


def test_batch_sizes_are_candidates_too(tiny_data):
    changes = THESIS | {'stage.rot.search.batch_sizes': (4, 8)}
    trials = tiny.make_stages(tiny_data, 'rot', **changes)['rot'].search.trials
    assert [(t.facts.batch_size, t.optimizer.lr) for t in trials] == [
        (4, 0.01), (4, 0.05), (8, 0.01), (8, 0.05)
    ]  # fmt: skip
    assert [t.facts.steps_per_epoch for t in trials] == [8, 8, 4, 4]
    sampled = changes | {
        'stage.rot.search.protocol': 'sampled', 'stage.rot.search.fraction': 0.5
    }  # fmt: skip
    search = tiny.make_stages(tiny_data, 'rot', **sampled)['rot'].search
    for trial, winner in zip(search.trials, search.winners, strict=True):
        assert trial.optimizer.lr == winner.optimizer.lr
        assert trial.facts.batch_size == winner.facts.batch_size
        assert_on_half(trial, winner)
        assert (trial.settings.epochs, winner.settings.epochs) == (1, 2)


def test_only_the_bundle_of_a_searched_stage_stays(tiny_data, tmp_path):
    """Neither its checkpoints nor its trials' do, which its log and search.json tell of."""
    each = tiny.make_stages(tiny_data, 'rot', **THESIS)['rot']
    outcome = tiny.run(each, tmp_path, keep='bundle')
    assert not list(outcome.folder.rglob('checkpoints*'))
    assert len(list(outcome.folder.glob('trials/*/metrics.jsonl'))) == 2
    assert (outcome.folder / 'search.json').is_file()
    assert tiny.run(each, tmp_path, around=tiny.no_training).reused


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """Searches train trials together, as where there is one."""
    monkeypatch.setattr(lr_search, 'can_train_together', lambda stages, mesh: len(stages) > 1)


def test_too_little_memory_falls_back_to_one_by_one(
    made_up, on_an_accelerator, tmp_path, monkeypatch, capsys
):
    """Also when that is stopped: trials at different steps are not stacked."""
    make, calls, programs = made_up
    one_by_one, tried = lr_search.train, []

    def train(training, until):
        if training.together:
            tried.append(until)
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
        if training.first.optimizer.lr == 0.2 and len(calls) == 9 and not stopped:
            stopped.append(True)
            raise Interrupted
        one_by_one(training, until)

    stopped = []
    monkeypatch.setattr(lr_search, 'train', train)
    with pytest.raises(Interrupted):
        lr_search.search(make('thesis', [0.1, 0.2, 0.3]), tmp_path, programs)
    assert 'rot: too little memory for 3 trials together; one by one.' in capsys.readouterr().out
    assert not list(tmp_path.glob('trials/together-*'))
    winner = lr_search.search(make('thesis', [0.1, 0.2, 0.3]), tmp_path, programs)
    assert winner.optimizer.lr == 0.3 and tried == [9]
    assert [calls.count(rate) for rate in (0.1, 0.2, 0.3)] == [9, 9, 9]


def test_other_failures_together_are_told(made_up, on_an_accelerator, tmp_path, monkeypatch):
    make, _, programs = made_up

    def train(training, until):
        raise jax.errors.JaxRuntimeError('INTERNAL: a failure')

    monkeypatch.setattr(lr_search, 'train', train)
    with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
        lr_search.search(make('thesis', [0.1, 0.2]), tmp_path, programs)
