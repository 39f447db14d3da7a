import dataclasses

import numpy as np
import pytest

from cxr_jax.run.trained import load_readout
from cxr_jax.run.workdir import settings_of
from cxr_jax.runtime import parallel
from cxr_jax.store.stages import StageDirectory
from data_pipelines.errors import UserError
from data_pipelines.prepared import loader
from data_pipelines.prepared.masks import write_masks
from scripts import compare_masks
from scripts.compare_masks import COLUMNS, both_masks, compare
from tests import tiny


def test_means_and_the_interval_of_the_difference_over_patients():
    """Closed form: with one image a patient, the bootstrap's spread is sd / sqrt(n)."""
    rng = np.random.default_rng(0)
    table = rng.uniform(0.2, 0.6, (200, 4))
    found = compare(table, np.arange(200).astype(str), resamples=4000)
    for k, name in enumerate(COLUMNS):
        assert found[name]['value'] == pytest.approx(table[:, k].mean())
    difference = table[:, 1] - table[:, 0]
    assert found['ail_difference']['value'] == pytest.approx(difference.mean())
    half = (found['ail_difference']['high'] - found['ail_difference']['low']) / 2
    assert half == pytest.approx(1.96 * difference.std() / 200**0.5, rel=0.06)
    assert (found['images'], found['patients']) == (200, 200)
    twice = compare(np.repeat(table, 2, axis=0), np.repeat(np.arange(200), 2), resamples=4000)
    wider = twice['ail_difference']['high'] - twice['ail_difference']['low']
    assert wider == pytest.approx(2 * half, rel=0.06)  # the same patients: no more certain


@pytest.fixture(scope='module')
def run(tiny_data, tmp_path_factory):
    """(folder of a finished classifier that tells its run, data with the sidecar `most`).

    The sidecar has the stored masks, but for those of every second test image: nothing, rejected.
    """
    plan = tiny.make_plan(tiny_data, 'scratch')
    store, stage = tmp_path_factory.mktemp('compare_masks'), plan.stages[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, 'ORIGIN', tiny.ORIGIN | {'run': settings_of(plan)})
        tiny.run(stage, store)
    stored = loader.whole(tiny_data.corpus(), ('lung_mask',))['lung_mask'][..., 0]
    emptied = np.flatnonzero(tiny_data.index.split == 'test')[::2]
    stored[emptied] = 0
    write_masks(tiny_data, 'most', stored, {})
    return StageDirectory(store, stage.name, stage.key).finished, tiny_data


def test_the_images_with_both_masks_are_predicted_with_each(run, monkeypatch):
    folder, data = run
    mesh = tiny.one_device()
    monkeypatch.setattr(parallel, 'data_mesh', lambda: mesh)
    table, patients = both_masks(folder, 'most', str(data.data_dir))
    other = data.with_masks('most').corpus('test')
    assert 1 < len(table) <= len(other) < len(data.corpus('test'))
    rows = load_readout(folder).predict(other, mesh, 8)
    known = np.isfinite(rows.ail)
    assert len(table) == known.sum()
    np.testing.assert_array_equal(patients, rows.patients[known])
    np.testing.assert_allclose(table[:, 1], rows.ail[known], rtol=1e-6)
    # What the quality control cleans changes a phantom's mask little, and its area so little.
    np.testing.assert_allclose(table[:, 0], table[:, 1], atol=0.05)
    np.testing.assert_allclose(table[:, 2], rows.lung_area[known], atol=0.05)
    assert np.ptp(table[:, 0]) > 0


def test_what_cannot_be_compared_is_explained(run, monkeypatch):
    folder, data = run
    with pytest.raises(UserError, match="'?other"):
        both_masks(folder, 'other', str(data.data_dir))
    readout = load_readout(folder)
    of_folds = {'run': {'data': readout.description['run']['data'] | {'folds': 3}}}
    folded = dataclasses.replace(readout, description=of_folds)
    monkeypatch.setattr(compare_masks, 'load_readout', lambda folder: folded)
    with pytest.raises(UserError, match='was cross-validated'):
        both_masks(folder, 'most', str(data.data_dir))
