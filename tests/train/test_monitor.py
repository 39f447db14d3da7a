"""When a training is looked at, what is written, what follows from a collapse."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.evaluation.health import health
from cxr_jax.train.monitor import Health, Record
from data_pipelines.errors import UserError
from tests import tiny

RNG = np.random.default_rng(0)
APART = {'a': RNG.normal(size=(8, 4)), 'b': RNG.normal(size=(8, 4))}
ALIKE = {'a': np.ones((8, 4)), 'b': np.ones((8, 4))}
SPREAD = {'codes': np.eye(4)[RNG.integers(0, 4, 8)]}


def monitor(folder, looks=20, epochs=10, on_collapse='warn', begun=0):
    """Of a stage of 100 steps, of which `begun` are done."""
    stage = SimpleNamespace(
        name='moco', total_steps=100, facts=SimpleNamespace(steps_per_epoch=100 // epochs),
        settings=SimpleNamespace(epochs=epochs), optimizer=SimpleNamespace(lr=0.3),
        task=SimpleNamespace(chance_loss=lambda: 2.0),
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    found = Health(stage, folder, looks, on_collapse)
    found.begin(begun, None)
    return found


def train(found, until, embeddings, begun=0):
    """Calls the monitor as the loop does; the loss of step k is 1 / k."""
    mesh = tiny.one_device()
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))

    def put(rows):
        return {k: jax.device_put(v.astype('float32'), sharding) for k, v in rows.items()}

    for step in range(begun + 1, until + 1):
        if found.looks_at(step):
            log = SimpleNamespace(rows=[{'step': k, 'loss': 1 / k} for k in range(1, step + 1)])
            seen = {'embeddings': put(embeddings(step)), 'assignments': put(SPREAD)}
            ending = found.look(step, seen, log)
            if ending:
                raise ending


def rows_of(folder):
    return [json.loads(row) for row in (folder / 'health.jsonl').open()]


@pytest.mark.parametrize(
    ('looks', 'epochs', 'expected'),
    [
        (5, 4, [1, 20, 40, 60, 80, 100]),
        (3, 2, [1, 34, 67, 100]),
        (3, 5, [1, 20, 40, 60, 80, 100]),  # one an epoch at least
        (400, 1, list(range(1, 101))),
    ],
)
def test_looks_are_spread_evenly(looks, epochs, expected, tmp_path):
    found = monitor(tmp_path, looks, epochs)
    assert [step for step in range(1, 101) if found.looks_at(step)] == expected


def test_a_row_is_what_was_seen(tmp_path):
    train(monitor(tmp_path, looks=10), 20, lambda step: APART)
    rows = rows_of(tmp_path)
    assert [(row['step'], row['epoch']) for row in rows] == [(1, 0.1), (10, 1.0), (20, 2.0)]
    narrow = {name: rows.astype('float32') for name, rows in APART.items()}
    expected = health(narrow, SPREAD)
    expected |= {'epoch': 2.0, 'step': 20, 'loss': np.mean([1 / k for k in range(11, 21)])}
    assert rows[2].pop('alarms') == [] and rows[2] == pytest.approx(expected)


def test_what_is_trained_again_is_written_again(tmp_path):
    """Killed after step 47, begun again at 30: as if it had never been killed."""

    def half(step):
        return ALIKE if 20 < step < 60 else APART

    train(monitor(tmp_path / 'whole'), 100, half)
    train(monitor(tmp_path / 'again'), 47, half)
    train(monitor(tmp_path / 'again', begun=30), 100, half, begun=30)
    assert rows_of(tmp_path / 'again') == rows_of(tmp_path / 'whole')


def test_a_collapse_is_told_once_and_its_end(tmp_path, capsys):
    train(monitor(tmp_path), 100, lambda step: ALIKE if 20 < step < 60 else APART)
    said = capsys.readouterr().out
    assert said.count('! moco, step 30 of 100: all images have nearly the same embedding') == 1
    assert said.count('moco, step 65: no longer so') == 1
    on = [row['step'] for row in rows_of(tmp_path) if 'constant' in row['alarms']]
    assert on == [30, 35, 40, 45, 50, 55, 60]


def test_a_collapse_may_end_the_run(tmp_path):
    found = monitor(tmp_path, on_collapse='stop')
    with pytest.raises(UserError, match='moco has collapsed at step 30 of 100') as told:
        train(found, 100, lambda step: ALIKE if step > 20 else APART)
    assert '--config.stage.moco.optimizer.lr=0.1)' in str(told.value)
    assert '\n' not in str(told.value) and 'on_collapse=warn' in str(told.value)


def test_a_loss_at_chance_ends_nothing(tmp_path, monkeypatch, capsys):
    found = monitor(tmp_path, on_collapse='stop')
    monkeypatch.setattr(found._stage.task, 'chance_loss', lambda: -10.0)
    train(found, 100, lambda step: APART)
    assert rows_of(tmp_path)[-1]['alarms'] == ['chance'] and '! moco' in capsys.readouterr().out


def test_embeddings_that_are_not_finite_are_not_judged(tmp_path):
    train(monitor(tmp_path), 5, lambda step: {'a': np.full((8, 4), np.nan)})
    assert not (tmp_path / 'health.jsonl').exists()


def test_a_record_survives_a_torn_line(tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    record = Record(path)
    record.add({'step': 2, 'value': None})
    assert path.read_text() == '{"step": 1}\n{"step": 2, "value": null}\n'
