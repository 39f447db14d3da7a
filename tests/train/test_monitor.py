"""The spread of embeddings against closed forms, and the file that it is written to."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.train import monitor
from cxr_jax.train.monitor import Health, spread
from cxr_jax.train.stage import Labelled
from tests import tiny


def test_rows_that_point_anywhere():
    """Each coordinate of a random unit row has the deviation 1 / sqrt(D); the length is nothing."""
    rows = np.random.default_rng(0).normal(size=(4000, 16))
    found = spread(rows)
    assert found['std'] == pytest.approx(1, abs=0.02)
    assert found['rank'] == pytest.approx(16, rel=0.01)
    longer = rows * np.random.default_rng(1).uniform(0.1, 10, (4000, 1))
    assert spread(longer)['std'] == pytest.approx(found['std'])


def test_orthogonal_rows():
    """Singular values 1 and 3: the entropy is that of 1/4 and 3/4."""
    found = spread(np.diag([1.0, 3.0]))
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert found['rank'] == pytest.approx(np.exp(entropy), rel=1e-5)
    assert found['std'] == pytest.approx(0.5 * np.sqrt(2))
    assert spread(np.eye(5))['rank'] == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize('row', [np.array([0.3, -2.0, 5.0]), np.zeros(3)])
def test_one_row_for_all_is_a_collapse(row):
    found = spread(np.tile(row, (7, 1)))
    assert abs(found['std']) < 1e-7
    assert found['rank'] == pytest.approx(1, abs=1e-4)


def test_one_line_for_all_is_half_a_collapse():
    """Two directions of one line: of full deviation, of rank 1."""
    found = spread(np.array([[1.0, 2.0], [-1.0, -2.0]]))
    assert found['rank'] == pytest.approx(1, abs=1e-4)
    assert found['std'] == pytest.approx((1 + 2) / np.sqrt(5) / 2 * np.sqrt(2))


@pytest.fixture
def health(tiny_data, tmp_path, monkeypatch):
    """A monitor every second epoch whose embeddings are the state's `rows`."""
    monkeypatch.setattr(
        monitor, 'make_observation',
        lambda *unused: lambda state, batch, number: (0, {}, {'a': state.a, 'b': state.b}),
    )  # fmt: skip
    contract = SimpleNamespace(needs_masks=False)
    stage = SimpleNamespace(
        task=SimpleNamespace(needs=('row',)), encoder=SimpleNamespace(contract=contract), seed=0,
        train=Labelled(tiny_data.corpus('train')), facts=SimpleNamespace(batch_size=8),
    )  # fmt: skip
    return Health(stage, tiny.one_device(), tmp_path, 2.0), tmp_path / 'health.jsonl'


def test_a_row_is_written_every_so_many_epochs(health):
    """An epoch that is trained again, after a kill, has one row."""
    look, path = health
    rng, written = np.random.default_rng(0), {}
    for epoch in (1, 2, 3, 4, 5, 6, 3, 4):
        views = [jax.numpy.asarray(rng.normal(size=(8, 4)), 'float32') for _ in range(2)]
        look(epoch, SimpleNamespace(step=10 * epoch, a=views[0], b=views[1]))
        written[epoch] = {
            f'{name}_{key}': value
            for name, view in zip('ab', views, strict=True)
            for key, value in spread(np.asarray(view)).items()
        }
    rows = [json.loads(row) for row in path.open()]
    assert rows == [{'epoch': k, 'step': 10 * k} | written[k] for k in (2, 4)]
