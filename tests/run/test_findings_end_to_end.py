"""Several findings an image, some uncertain, some not said: from the command to the report."""

import json
import pathlib
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from cxr_jax import main
from cxr_jax.runtime import command_line
from tests import small_sets, tiny

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'curriculum.py'
WORDS = (
    'data.name=f', 'data.size=40', 'encoder.width=4', 'eval.resamples=200', 'eval.batch_size=8',
    'stage.findings.batch_size=8', 'stage.findings.epochs=12', 'stage.findings.task.image_size=32',
    'stage.findings.task.augment.flip=0.0', 'stage.findings.task.augment.crop_scale=(0.9, 1.0)',
    'stage.rot.batch_size=12', 'stage.rot.epochs=1', 'stage.rot.task.image_size=32',
    "stage.rot.data.sets=('b',)",
)  # fmt: skip


@pytest.fixture(scope='module')
def finished(sets, tmp_path_factory):
    """(results.json, predictions.npz, results.md) of a run of `python -m cxr_jax.main`."""
    workdir = tmp_path_factory.mktemp('findings') / 'run'
    words = ['main.py', '--config', f'{CONFIG}:rot,readout=findings,preset=demo']
    words += [f'--config.{word}' for word in WORDS]
    words += [f'--config.data.dir={sets["f"].data_dir}', f'--workdir={workdir}']
    once = tiny.compiled_once(rendered=True)
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver(), once:
        patch.setattr(sys, 'argv', words)
        patch.setattr(command_line, 'use_cache', lambda: None)
        with pytest.raises(SystemExit) as stopped:
            command_line.run(main.main, main.EXAMPLE, ('curriculum', 'readout', 'preset'))
    assert not stopped.value.code
    results = json.loads((workdir / 'results.json').read_text())
    table = dict(np.load(workdir / 'predictions.npz'))
    return results, table, (workdir / 'results.md').read_text()


def auc(scores, labels) -> float:
    """Of the pairs of one with and one without, how many are in order."""
    pairs = scores[labels == 1][:, None] - scores[labels == 0]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def average_precision(scores, labels) -> float:
    order = np.argsort(-scores)
    found = labels[order] == 1
    return float((found.cumsum() / np.arange(1, len(found) + 1))[found].mean())


def test_every_tested_image_is_predicted_with_what_is_known_of_it(sets, finished):
    _, table, _ = finished
    index = sets['f'].index
    tested = index.split == 'test'
    assert sorted(table['image_ids']) == sorted(index.image_id[tested])
    said = {i: labels for i, labels in zip(index.image_id, index.labels, strict=True)}
    expected = np.stack([said[i] for i in table['image_ids']])
    np.testing.assert_array_equal(table['labels'], np.maximum(expected, -1))
    # f28 .. f39: one uncertain effusion (f35), two of which nothing is said of a mass (f30, f38).
    assert (expected == -1).sum(0).tolist() == [1, 0]
    assert (expected == -2).sum(0).tolist() == [0, 2]
    assert ((table['scores'] > 0) & (table['scores'] < 1)).all()
    assert not np.allclose(table['scores'].sum(1), 1, atol=1e-3)  # not one of them, but any


def test_figures_are_those_of_the_known_labels(finished):
    results, table, _ = finished
    test, names = results['test'], list(small_sets.FINDINGS)
    assert (test['exclusive'], test['names'], test['images']) == (False, names, 12)
    expected = {'auc': [], 'average_precision': []}
    for column, row in enumerate(test['per_name']):
        labels, scores = table['labels'][:, column], table['scores'][:, column]
        known = labels >= 0
        assert row['name'] == names[column] and row['images'] == (labels == 1).sum()
        for measure, of in (('auc', auc), ('average_precision', average_precision)):
            value = of(scores[known], labels[known])
            found = row['figures'][measure]
            assert found['value'] == pytest.approx(value, abs=1e-6)
            assert found['low'] <= found['value'] <= found['high']
            expected[measure].append(value)
    for measure, values in expected.items():
        [figure] = [f for name, f in test['figures'].items() if measure in name]
        assert figure['figure']['value'] == pytest.approx(np.mean(values), abs=1e-6)
    assert test['calibration'] and test['confusion'] is None


def test_findings_are_learnt_from_partial_labels(finished):
    results, table, _ = finished
    effusion = results['test']['per_name'][0]['figures']['auc']['value']
    assert effusion > 0.8  # the left half is brighter by more than the noise
    loss = results['stages'][-1]['metrics']
    assert loss['chance_loss'] == pytest.approx(np.log(2)) and loss['loss'] < loss['chance_loss']


def test_the_report_tells_both_findings(finished):
    results, _, page = finished
    for word in (*small_sets.FINDINGS, 'AUC', 'verage precision', 'rot', 'left out'):
        assert word in page, word
    assert results['data']['name_counts']['test'] == [5, 4]
    assert [row['data']['images'] for row in results['stages']] == [20, 23]
