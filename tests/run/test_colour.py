"""Runs on images in colour, and on grey ones stored as three equal channels."""

import contextlib
import dataclasses
import io
import json
from unittest import mock

import numpy as np
import pytest

from cxr_jax.run import curriculum
from data_pipelines.datasets import isic2019
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from tests import tiny
from tests.isic_tree import write_isic

CLASSES = ('MEL', 'NV')
SHOWN = ['MEL', 'MEL', 'NV', 'NV'] * 12
SMALL = {
    'data.size': 16, 'data.classes': CLASSES, 'encoder.width': 4, 'encoder.channels': 3,
    'keep': 'bundle', 'stage.rot.task.image_size': 12, 'stage.rot.epochs': 1,
    'stage.classify.task.image_size': 12, 'stage.classify.epochs': 1,
}  # fmt: skip


def run(data, workdir):
    """(results, {stage: its losses})."""
    plan = tiny.make_plan(data, 'rot', **SMALL)
    with tiny.compiled_once(), contextlib.redirect_stdout(io.StringIO()):
        results = curriculum.run(plan, workdir)
    losses = {}
    for row in results['stages']:
        path = workdir.parent / 'stages' / f'{row["stage"]}-{row["key"]}' / 'metrics.jsonl'
        losses[row['stage']] = [json.loads(x)['loss'] for x in path.read_text().splitlines()]
    return results, losses


def as_grey(source):
    return dataclasses.replace(LIST_ITEMS(source), channels=1)


LIST_ITEMS = isic2019.list_items


@pytest.fixture(scope='module')
def coloured(tmp_path_factory):
    root = tmp_path_factory.mktemp('isic')
    write_isic(root / 'raw', SHOWN)
    return prepare('isic2019', root / 'raw', root / 'data', 16, processes=1)


def test_colours_are_trained_on_and_read_out(coloured, tmp_path):
    results, losses = run(coloured, tmp_path / 'run')
    assert [row['stage'] for row in results['stages']] == ['rot', 'classify']
    assert all(np.isfinite(values).all() and len(values) for values in losses.values())
    assert results['test']['images'] == coloured.card['counts']['test']


def test_grey_in_three_channels_is_grey_repeated(tmp_path):
    write_isic(tmp_path / 'raw', SHOWN, grey=True)
    source = tmp_path / 'raw'
    three = prepare('isic2019', source, tmp_path / 'a', 16, processes=1)
    with mock.patch.object(isic2019, 'list_items', as_grey):
        one = prepare('isic2019', source, tmp_path / 'b', 16, processes=1)
    assert (three.channels, one.channels) == (3, 1)
    found = [run(data, tmp_path / f'run{data.channels}' / 'run') for data in (three, one)]
    for stage in ('rot', 'classify'):
        first, second = (losses[stage] for _, losses in found)
        np.testing.assert_allclose(first, second, rtol=1e-4)
    # The images are other bytes, so no stage stands for the other one.
    keys = [[row['key'] for row in results['stages']] for results, _ in found]
    assert not set(keys[0]) & set(keys[1])


def test_colour_needs_three_channels(coloured):
    with pytest.raises(UserError) as told:
        tiny.make_plan(coloured, 'rot', **SMALL | {'encoder.channels': 1})
    assert 'isic2019 has images in colour' in str(told.value)
    assert '--config.encoder.channels=3' in str(told.value)
