"""Images that live on the devices give the batches that the loader would stream, bit for bit."""

import itertools

import jax
import numpy as np
import pytest

from cxr_jax.models.encoder import build_backbone
from cxr_jax.run.plan import make_plan
from cxr_jax.runtime import parallel
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import feed
from data_pipelines.prepared import loader
from tests import tiny


def drawn(data, devices, share, masks=True, start=3):
    mesh = parallel.data_mesh(jax.devices()[:devices])
    made = feed.batches(data, 8, 7, start, mesh, masks, share)
    return [jax.device_get(batch) for batch in itertools.islice(made, 9)]


@pytest.mark.parametrize('devices', (1, 8))
@pytest.mark.parametrize('share', (0.0, 0.5))
def test_batches_are_the_loaders(share, devices, tiny_data, monkeypatch):
    monkeypatch.setattr(feed, '_resident', {})
    expected = loader.train_batches(tiny_data, 'train', 8, 7, start=3, masks=True)
    if share:
        monkeypatch.setattr(loader, 'train_batches', None)  # nothing is streamed
    for found, wanted in zip(drawn(tiny_data, devices, share), expected, strict=False):
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values)
    assert len(feed._resident) == bool(share)


def test_what_does_not_fit_is_streamed(tiny_data, monkeypatch, capsys):
    monkeypatch.setattr(feed, '_resident', {})
    monkeypatch.setattr(feed, '_memory', lambda mesh: 100_000)
    needed = tiny_data.counts['train'] * tiny.SIZE**2
    assert needed < 100_000 < 2 * needed  # the images alone, with their masks
    drawn(tiny_data, 1, 1.0, masks=False)
    assert len(feed._resident) == 1 and not capsys.readouterr().out
    drawn(tiny_data, 1, 1.0)
    assert not feed._resident
    assert 'more than 100 % of a device' in capsys.readouterr().out


def test_a_stage_is_the_same(tiny_data, undisturbed, tmp_path, monkeypatch):
    _, _, finished = undisturbed('rot')
    monkeypatch.setattr(feed, '_resident', {})
    monkeypatch.setattr(loader, 'train_batches', None)  # nothing is streamed
    stage = tiny.make_stages(tiny_data, 'rot', **{'data.on_device': 0.5})['rot']
    tiny.run(stage, tiny_data, tmp_path)
    tiny.assert_same_training(StageDirectory(tmp_path, 'rot', stage.key), finished)


def test_what_is_computed_again_does_not_change_the_stage(tiny_data):
    config = tiny.make_config(tiny_data, 'rot', **{'backbone.remat': True})
    assert build_backbone(config.backbone, 0.5, 0.25).network.remat
    keys = [make_plan(each, tiny_data, devices=1).stages[-1].key
            for each in (config, tiny.make_config(tiny_data, 'rot'))]  # fmt: skip
    assert keys[0] == keys[1]
