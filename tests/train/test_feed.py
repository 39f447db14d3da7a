"""Images that live on the devices give the batches that the loader would stream, bit for bit."""

import itertools

import jax
import numpy as np
import pytest

from cxr_jax.models.encoder import build_encoder
from cxr_jax.runtime import parallel
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import feed
from cxr_jax.train.stage import Labelled
from data_pipelines.prepared import loader
from data_pipelines.prepared.sampler import Sampler
from tests import tiny

EVERYTHING = ('image', 'lung_mask', 'label', 'row')


def labelled(data, seed=0):
    """Training images with two made-up findings each."""
    corpus = data.corpus('train')
    return Labelled(corpus, np.random.default_rng(seed).integers(-1, 2, (len(corpus), 2)))


def drawn(data, devices, share, fields=EVERYTHING, start=3):
    mesh = parallel.data_mesh(jax.devices()[:devices])
    sampler = Sampler(data.corpus, 8, 7)
    made = feed.batches(data, sampler, start, mesh, fields, share)
    return [jax.device_get(batch) for batch in itertools.islice(made, 9)]


@pytest.fixture(autouse=True)
def nothing_resident(monkeypatch):
    monkeypatch.setattr(feed, '_resident', {})


@pytest.mark.parametrize('devices', (1, 8))
@pytest.mark.parametrize('share', (0.0, 0.5))
def test_batches_are_the_loaders(share, devices, tiny_data, monkeypatch):
    data = labelled(tiny_data)
    expected = loader.train_batches(
        data.corpus, Sampler(data.corpus, 8, 7), 3, (0, 1), EVERYTHING, data.labels
    )
    if share:
        monkeypatch.setattr(loader, 'train_batches', None)  # nothing is streamed
    for found, wanted in zip(drawn(data, devices, share), expected, strict=False):
        assert found.keys() == wanted.keys() == {*EVERYTHING}
        np.testing.assert_array_equal(found['label'], data.labels[found['row']])
        for name, values in wanted.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values)
    assert len(feed._resident) == bool(share)


def test_what_lives_there_is_of_these_images_and_labels(tiny_data):
    """Other labels of the same images, and other images, take the place of what was there."""
    data = labelled(tiny_data)
    half = data.corpus.take(np.arange(17))
    for each in (data, labelled(tiny_data, seed=1), Labelled(half, data.labels[:17]), data):
        for batch in drawn(each, 1, 0.5):
            np.testing.assert_array_equal(batch['label'], each.labels[batch['row']])
        assert len(feed._resident) == 1


def test_what_does_not_fit_is_streamed(tiny_data, monkeypatch, capsys):
    monkeypatch.setattr(feed, '_memory', lambda mesh: 100_000)
    data = labelled(tiny_data)
    needed = data.images * tiny.SIZE**2
    assert needed < 100_000 < 2 * needed  # the images alone, with their masks
    drawn(data, 1, 1.0, ('image', 'label'))
    assert len(feed._resident) == 1 and not capsys.readouterr().out
    drawn(data, 1, 1.0)
    assert not feed._resident
    assert 'more than 100 % of a device' in capsys.readouterr().out


@pytest.mark.parametrize('name', ('rot', 'classify'))
def test_a_stage_is_the_same(name, tiny_data, undisturbed, tmp_path, monkeypatch):
    _, _, finished = undisturbed(name)
    monkeypatch.setattr(loader, 'train_batches', None)  # nothing is streamed
    tasks = {'classify': 'scratch'}.get(name, name)
    stage = tiny.make_stages(tiny_data, tasks, **{'data.on_device': 0.5})[name]
    tiny.run(stage, tmp_path)
    tiny.assert_same_training(StageDirectory(tmp_path, name, stage.key), finished)


def test_what_is_computed_again_is_no_other_stage(tiny_data):
    plain, again = (
        tiny.make_stages(tiny_data, 'rot', **{'encoder.remat': remat})['classify']
        for remat in (False, True)
    )
    assert build_encoder(again.encoder.settings, again.encoder.contract).network.remat
    assert not plain.encoder.network.remat and plain.key == again.key
