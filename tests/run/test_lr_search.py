"""The search of the learning rate: candidates, rungs, survivors, and what continues."""

import dataclasses
import functools
import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.evaluation import predict
from cxr_jax.evaluation.measures import classification
from cxr_jax.run import search as lr_search
from cxr_jax.run.search import candidate_rates, rungs
from cxr_jax.runtime import parallel
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import loop, validation
from cxr_jax.train.loop import NotFinite
from cxr_jax.train.stage import Search, SearchSettings
from data_pipelines.errors import UserError
from data_pipelines.prepared import loader
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
            watch(step, np.array(lr))
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


HALF = 16  # images of half of the patients of the 34
THESIS = {
    'stage.rot.search.protocol': 'thesis', 'stage.rot.search.low': 0.01,
    'stage.rot.search.high': 0.05, 'stage.rot.search.count': 2, 'stage.rot.search.epochs': 1,
}  # fmt: skip


def plain_run(tiny_data, store, rate):
    each = tiny.make_stages(tiny_data, 'rot', **{'stage.rot.optimizer.lr': rate})['rot']
    return tiny.run(each, store), StageDirectory(store, 'rot', each.key)


@pytest.mark.parametrize('protocol', ['thesis', 'sampled'])
def test_the_winner_is_an_uninterrupted_run_at_its_rate(protocol, tiny_data, tmp_path):
    """Bit for bit, the whole state and the log, though the search is killed in its second trial."""
    changes = THESIS | {
        'stage.rot.search.protocol': protocol, 'stage.rot.search.fraction': 0.5
    }  # fmt: skip
    each = tiny.make_stages(tiny_data, 'rot', **changes)['rot']
    images = {trial.facts.images for trial in each.search.trials}
    assert images == {34 if protocol == 'thesis' else HALF} and each.facts.images == 34
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


@pytest.fixture(scope='module')
def untrained(tiny_data):
    """(classifier's Stage, its Programs, its state at step 0)."""
    each = tiny.make_stages(tiny_data, 'scratch')['classify']
    parent = tiny.fresh_parts(each.encoder)
    with tiny.compiled_once():
        programs = validation.Programs(parent, tiny.one_device())
        return each, programs, programs.of(each).create(parent, 0.1)


def test_a_classifier_is_judged_by_its_headline(untrained):
    """Mean recall of its classes, against predict on the validation split."""
    each, programs, state = untrained
    value, data = programs.validator(each)(state), each.validation
    found = predict.predict(each.task, each.encoder, state.parts, data.corpus, data.labels,
                            tiny.one_device(), 5)  # fmt: skip
    predicted = found.scores.argmax(1)
    recall = [np.mean(predicted[found.labels == k] == k) for k in np.unique(found.labels)]
    assert value == pytest.approx(np.mean(recall), rel=1e-6)
    assert validation.judged_by(each) == (classification.BALANCED_ACCURACY.name, True)


@pytest.mark.parametrize('region', ['full', 'lungs_black'])
def test_a_classifier_is_judged_without_maps(region, tiny_data, untrained, monkeypatch):
    """None is computed, and lung masks are read where the region needs them alone."""
    each = tiny.make_stages(tiny_data, 'scratch', **{'data.region': region})['classify']
    _, _, state = untrained
    eval_batches, read = loader.eval_batches, []

    def reading(*arguments, **names):
        for batch in eval_batches(*arguments, **names):
            read.append('lung_mask' in batch)
            yield batch

    monkeypatch.setattr(predict, 'class_activation_map', None)
    monkeypatch.setattr(loader, 'eval_batches', reading)
    predict._compiled.cache_clear()
    value = validation.make_validator(each, tiny.one_device())(state)
    assert 0 <= value <= 1
    assert read and set(read) == {region != 'full'}
    with pytest.raises(TypeError):  # where maps are wanted they are computed
        predict.predict(each.task, each.encoder, state.parts, each.validation.corpus,
                        each.validation.labels, tiny.one_device(), 8)  # fmt: skip
    predict._compiled.cache_clear()


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
        assert (trial.facts.images, winner.facts.images) == (HALF, 34)
        assert (trial.settings.epochs, winner.settings.epochs) == (1, 2)


def sampled_for_as_many_steps(name):
    """A search on half of the images for twice the epochs, warmed up for one."""
    search = {
        'protocol': 'sampled', 'count': 1, 'fraction': 0.5, 'epochs': 4, 'low': 0.01, 'high': 0.05
    }  # fmt: skip
    changes = {f'stage.{name}.search.{field}': value for field, value in search.items()}
    return changes | {f'stage.{name}.optimizer.warmup_epochs': 1.0}


def test_a_trial_that_takes_as_many_steps_has_another_program(tiny_data):
    """The final training's queue is of all images, though it has the trial's number of steps."""
    changes = sampled_for_as_many_steps('moco') | {
        'stage.moco.task.queue_size': 'auto', 'stage.moco.task.key_groups': 1
    }  # fmt: skip
    each = tiny.make_stages(tiny_data, 'moco', **changes)['moco']
    (trial,), (final,) = each.search.trials, each.search.winners
    assert trial.total_steps == final.total_steps == tiny.STEPS
    assert trial.facts.batch_size == final.facts.batch_size
    programs = validation.Programs(tiny.fresh_parts(each.encoder), tiny.one_device())
    queues = [programs.of(stage).like.extra['queue'] for stage in (trial, final)]
    assert [len(queue) for queue in queues] == [16, 32]
    assert programs.of(trial) is programs.of(trial)


def test_a_stage_after_a_trial_that_took_as_many_steps(tiny_data, tmp_path):
    """Its epochs are those of all images: whole state, log and warm-up of a plain run."""
    changes = sampled_for_as_many_steps('classify')
    each = tiny.make_stages(tiny_data, 'scratch', **changes)['classify']
    (trial,), (final,) = each.search.trials, each.search.winners
    assert trial.total_steps == final.total_steps == tiny.STEPS
    assert (trial.facts.steps_per_epoch, final.facts.steps_per_epoch) == (2, 4)
    outcome = tiny.run(each, tmp_path)
    rates = [row['learning_rate'] for row in outcome.metrics]
    assert rates[:4] == pytest.approx([rates[3] * k / 4 for k in (1, 2, 3, 4)])
    plain = {'stage.classify.optimizer.warmup_epochs': 1.0}
    plain |= {'stage.classify.optimizer.lr': outcome.description['learning_rate']}
    plain = tiny.make_stages(tiny_data, 'scratch', **plain)['classify']
    tiny.run(plain, tmp_path)
    directories = [StageDirectory(tmp_path, 'classify', stage.key) for stage in (each, plain)]
    tiny.assert_same_training(*directories)


def test_only_the_bundle_of_a_searched_stage_stays(tiny_data, tmp_path):
    """Neither its checkpoints nor its trials' do, which its log and search.json tell of."""
    each = tiny.make_stages(tiny_data, 'rot', **THESIS)['rot']
    outcome = tiny.run(each, tmp_path, keep='bundle')
    assert not list(outcome.folder.rglob('checkpoints*'))
    assert len(list(outcome.folder.glob('trials/*/metrics.jsonl'))) == 2
    assert (outcome.folder / 'search.json').is_file()
    assert tiny.run(each, tmp_path, around=tiny.no_training).reused


def halving(tiny_data, *rates):
    """A classifier and its search: all rates for an epoch, then a third of them for another."""
    each = tiny.make_stages(tiny_data, 'scratch')['classify']

    def at(rate):
        optimizer = dataclasses.replace(each.optimizer, lr=rate)
        settings = dataclasses.replace(each.settings, optimizer=optimizer)
        return dataclasses.replace(each, settings=settings)

    trials = tuple(map(at, rates))
    search = Search(search_settings(protocol='halving', epochs=6), trials, trials)
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


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """Searches train trials together, as where there is one."""
    monkeypatch.setattr(
        lr_search, 'can_train_together', lambda stages, mesh: len(stages) > 1
    )


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


def test_which_trials_train_together(tiny_data, monkeypatch):
    """On one accelerator, those that differ in their rate alone."""
    stages = list(tiny.make_stages(tiny_data, 'rot', **THESIS)['rot'].search.trials)
    mesh, many = tiny.one_device(), parallel.data_mesh()
    together = functools.partial(lr_search.can_train_together, mesh=mesh)
    assert not together(stages)  # faster one by one on a CPU
    monkeypatch.setattr(lr_search.jax, 'default_backend', lambda: 'gpu')
    assert together(stages) and not together(stages[:1])
    assert not lr_search.can_train_together(stages, many)
    facts = dataclasses.replace(stages[1].facts, batch_size=4)
    assert not together([stages[0], dataclasses.replace(stages[1], facts=facts)])
    monkeypatch.setattr(type(stages[0].task), 'between', lambda *unused: None)
    assert not together(stages)
