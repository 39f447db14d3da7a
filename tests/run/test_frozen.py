"""Readouts of a frozen encoder, from the plan to the report: a linear probe, nearest neighbours.

On findings with missing labels (set f of tests/small_sets.py).
"""

import contextlib
import io
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.evaluation.probes import knn_scores
from cxr_jax.run import curriculum
from cxr_jax.run.initial import initial_parts
from cxr_jax.run.trained import load_readout
from cxr_jax.store import trees
from cxr_jax.train.features import corpus_features, whole_image_statistics
from data_pipelines.errors import UserError
from tests import small_sets, tiny

SMALL = {'encoder.width': 4}
# Of a decay that would show.
DECAYED = {
    'stage.probe.optimizer.weight_decay': 0.1,
    'stage.probe.optimizer.head_weight_decay': 0.1,
}
KNN = {'stage.knn.task.neighbours': 6, 'stage.knn.task.batch_statistics': 'handed'}


@pytest.fixture(scope='module')
def finished(sets, tmp_path_factory):
    """{readout: what its run left, and the features of the images it was trained and tested on}."""
    found, folder = {}, tmp_path_factory.mktemp('frozen')
    for readout, changes in (('probe', DECAYED), ('knn', KNN)):
        plan = tiny.make_plan(sets['f'], 'scratch', readout, **SMALL | changes)
        workdir, [branch] = folder / readout, plan.branches
        with tiny.compiled_once(), contextlib.redirect_stdout(io.StringIO()) as printed:
            parent = initial_parts(plan, branch)
            results = curriculum.run(plan, workdir)
        stage, mesh = branch.stages[-1], tiny.one_device()
        read = parent['encoder']
        if readout == 'probe':
            images = stage.train.corpus, 32, 8
            found_anew = whole_image_statistics(stage.encoder, mesh, read, *images)
            read = read | {'batch_stats': found_anew}
        features = [
            corpus_features(stage.encoder, mesh, read, corpus, 32, 8)
            for corpus in (stage.train.corpus, branch.tested.corpus)
        ]
        found[readout] = SimpleNamespace(
            stage=stage, read=jax.device_get(read), results=results,
            printed=printed.getvalue(), workdir=workdir, features=features,
            bundle=load_readout(folder / 'stages' / f'{readout}-{stage.key}'),
            table=dict(np.load(workdir / 'predictions.npz')),
            page=(workdir / 'results.md').read_text(),
        )  # fmt: skip
    return found


@pytest.mark.parametrize('readout', ['probe', 'knn'])
def test_the_encoder_is_left_as_it_was(finished, readout):
    """Its batch statistics too, if they are as handed over, or those of whole images. The features
    are standardised by those of all training images."""
    own = finished[readout]
    assert trees.sha256(own.bundle.parts['encoder']) == trees.sha256(own.read)
    statistics = own.bundle.parts['statistics']['params']
    trained, _ = own.features
    assert len(trained) == own.stage.facts.images
    np.testing.assert_allclose(statistics['mean'], trained.mean(0), rtol=1e-5, atol=1e-7)
    moves = trained.std(0) > 1e-6
    expected = 1 / (trained.std(0) * np.sqrt(trained.shape[1]))
    np.testing.assert_allclose(statistics['scale'][moves], expected[moves], rtol=1e-4)


@pytest.mark.parametrize('readout', ['probe', 'knn'])
def test_a_bundle_predicts_what_the_run_did(finished, readout):
    own = finished[readout]
    corpus = own.bundle.target.labelled(own.stage.train.corpus.parts[0][0].corpus('test'))
    table = own.bundle.predict(corpus, tiny.one_device(), 64).table()
    assert not own.bundle.readout.exclusive and own.bundle.target.names == small_sets.FINDINGS
    assert table.keys() == own.table.keys()
    order = {image: row for row, image in enumerate(own.table['image_ids'])}
    rows = [order[image] for image in table['image_ids']]
    for name, column in table.items():
        np.testing.assert_array_equal(column, own.table[name][rows], err_msg=name)


def test_a_probe_is_trained_and_has_maps(finished):
    own = finished['probe']
    [row] = own.results['stages']
    assert row['steps'] == own.stage.total_steps > 0
    head = own.bundle.parts['head']['params']['linear']
    x = (own.features[1] - own.features[0].mean(0)) * own.bundle.parts['statistics']['params'][
        'scale'
    ]
    expected = 1 / (1 + np.exp(-(x @ head['kernel'] + head['bias'])))
    np.testing.assert_allclose(own.table['scores'], expected, rtol=1e-4, atol=1e-6)
    assert own.results['no_maps'] == '' and own.results['attention']
    assert {'ail', 'lung_area'} <= own.table.keys()
    assert (own.workdir / 'gallery.png').is_file() and (own.workdir / 'curves.png').is_file()


def test_neighbours_vote_without_any_training(finished):
    own = finished['knn']
    [row] = own.results['stages']
    assert (row['steps'], row['epochs'], row['learning_rate']) == (0, 0, None)
    assert 'knn: done in' in own.printed
    bank, queries = (x - own.features[0].mean(0) for x in own.features)
    scale = own.bundle.parts['statistics']['params']['scale']
    labels = own.stage.train.labels
    assert (labels == -1).any()
    expected = knn_scores(bank * scale, labels, queries * scale, 2, 6)
    np.testing.assert_allclose(own.table['scores'], expected, rtol=1e-3, atol=1e-5)
    saved = tiny.saved(own.bundle.folder, 0)
    bank = own.bundle.parts['bank']['params']['features']
    np.testing.assert_array_equal(saved['params/bank/features'], bank)


def test_what_neighbours_have_no_maps_for_is_told(finished):
    own = finished['knn']
    assert own.results['no_maps'] in own.page and 'no class activation maps' in own.page
    assert own.results['attention'] is None and own.results['boxes'] is None
    assert 'ail' not in own.table and 'AIL' not in own.page
    assert not (own.workdir / 'gallery.png').exists()
    assert not (own.workdir / 'curves.png').exists()
    assert (own.workdir / 'roc.png').is_file()


def test_settings_of_a_training_are_no_part_of_the_key_of_neighbours(sets):
    def key(**changes):
        return tiny.make_stages(sets['f'], 'scratch', readout='knn', **changes)['knn'].key

    same = {
        'stage.knn.epochs': 7, 'stage.knn.optimizer.lr': 0.3, 'stage.knn.task.augment.flip': 0.1,
    }  # fmt: skip
    assert key(**same) == key() != key(**{'stage.knn.task.neighbours': 3})
    # Batch statistics of whole images are means over batches; those handed over are not.
    batch, handed = {'stage.knn.batch_size': 4}, {'stage.knn.task.batch_statistics': 'handed'}
    assert key(**batch) != key() and key(**batch | handed) == key(**handed)


@pytest.mark.parametrize(
    ('field', 'value'), [('search.protocol', 'thesis'), ('early_stop.by', 'loss')]
)
def test_what_decides_about_a_training_is_refused(sets, field, value):
    with pytest.raises(UserError, match='knn has nothing to train'):
        tiny.make_stages(sets['f'], 'scratch', readout='knn', **{f'stage.knn.{field}': value})
