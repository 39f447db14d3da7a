"""Cross-validation: five folds of c, three seeds, from an encoder that was pretrained on b."""

import contextlib
import io
import json

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.run import curriculum
from data_pipelines.errors import UserError
from tests import tiny

SMALL = {'encoder.width': 4, 'keep': 'bundle'}
FOLDS, SEEDS = 5, (0, 1, 2)


def run(plan, workdir):
    with tiny.compiled_once(), contextlib.redirect_stdout(io.StringIO()):
        return curriculum.run(plan, workdir)


@pytest.fixture(scope='module')
def pretrained(sets, tmp_path_factory):
    """(results, folder of the stage) of a run on a set without labels and without splits."""
    folder = tmp_path_factory.mktemp('pretrained')
    one_epoch = {'stage.rot.epochs': 1, 'stage.rot.batch_size': 20}
    results = run(tiny.make_plan(sets['b'], 'rot', 'none', **SMALL, **one_epoch), folder / 'run')
    return results, folder / 'stages' / results['bundles'][0]


def of_folds(sets, tasks='scratch', **changes):
    flat = {'data.folds': FOLDS, 'stage.classify.epochs': 1, 'stage.classify.batch_size': 32}
    return tiny.make_plan(sets['c'], tasks, **SMALL | flat | changes)


def test_a_set_without_labels_and_splits_can_be_trained_on(pretrained):
    results, folder = pretrained
    told = results['data']
    assert (told['name'], told['counts']) == ('b', {'train': 20, 'validation': 0, 'test': 0})
    assert told['names'] == [] and results['test'] is None and not told['has_patient_ids']
    assert results['stages'][0]['data']['left_out']['images'] == 0
    assert (folder / 'encoder.safetensors').is_file()


@pytest.fixture(scope='module')
def out_of_fold(sets, pretrained, tmp_path_factory):
    """[(results, table)] of every seed, from one store."""
    folder, found = tmp_path_factory.mktemp('folds'), []
    for seed in SEEDS:
        plan = of_folds(sets, seed=seed, **{'encoder.weights': str(pretrained[1])})
        results = run(plan, folder / f'seed{seed}')
        found.append((results, dict(np.load(folder / f'seed{seed}' / 'predictions.npz'))))
    return found


def test_every_labelled_image_is_tested_once_per_seed(sets, out_of_fold):
    index = sets['c'].index
    labelled = (index.labels == 1).any(1)
    label_of = dict(zip(index.image_id, index.labels.argmax(1), strict=True))
    assert labelled.sum() == 106
    for results, table in out_of_fold:
        assert sorted(table['image_ids']) == sorted(index.image_id[labelled])
        assert table['labels'].tolist() == [label_of[i] for i in table['image_ids']]
        np.testing.assert_allclose(table['scores'].sum(1), 1, rtol=1e-5)
        assert (results['folds'], results['test']['images']) == (FOLDS, 106)
        assert results['test']['patients'] == 53
    # Folds are the data's: every seed tests an image with the same ones beside it.
    orders = [table['image_ids'].tolist() for _, table in out_of_fold]
    assert orders[0] == orders[1] == orders[2]
    scores = [table['scores'] for _, table in out_of_fold]
    assert not np.allclose(scores[0], scores[1], atol=1e-4)
    assert not np.allclose(scores[1], scores[2], atol=1e-4)


def test_figures_are_of_all_folds_together(out_of_fold):
    for seed, (results, table) in zip(SEEDS, out_of_fold, strict=True):
        right = table['scores'].argmax(1) == table['labels']
        figures = results['test']['figures']
        assert figures['accuracy']['figure']['value'] == pytest.approx(right.mean())
        again = measures.evaluate(table, ('left', 'right'), True, seed, 100)
        assert json.loads(json.dumps(again)) == json.loads(json.dumps(results['test']))


def test_every_fold_is_told(out_of_fold):
    results, _ = out_of_fold[0]
    rows = results['stages']
    assert [row['fold'] for row in rows] == list(range(FOLDS))
    assert len({row['key'] for row in rows}) == len(results['bundles']) == FOLDS
    assert sum(106 - row['data']['images'] for row in rows) == 106
    assert results['data']['counts'] == {'all': 120}


@pytest.mark.parametrize('search', ['off', 'thesis'])
def test_no_stage_of_a_fold_sees_who_is_tested_in_it(sets, search):
    """Patients and copies, in c itself and in the other sets. Nothing is trained here."""
    plan = of_folds(sets, 'rot_moco_relloc', **{
        'stage.moco.data.sets': ('a', 'b'), 'stage.relloc.data.sets': ('c', 'a'),
        'stage.moco.task.queue_size': 'auto',
        'stage.classify.search.protocol': search, 'stage.classify.search.epochs': 1,
    })  # fmt: skip
    assert [branch.fold for branch in plan.branches] == list(range(FOLDS))
    left_out, times_tested = 0, np.zeros(120, int)
    for branch in plan.branches:
        tested = branch.tested.corpus
        times_tested[tested.parts[0][1]] += 1
        judged = branch.stages[-1].validation.corpus
        assert bool(len(judged)) == (search != 'off')
        for stage in branch.stages:
            for held_out in (tested, judged):
                for field in ('patient', 'study', 'image_id', 'content'):
                    both = np.intersect1d(stage.train.corpus.column(field), held_out.column(field))
                    assert not [value for value in both if value], (branch.fold, stage.name, field)
            left_out += stage.left_out.images
    labelled = (sets['c'].index.labels == 1).any(1)
    np.testing.assert_array_equal(times_tested, labelled)
    # Everything that was planted is of some fold's test patients: a0 .. a3 twice (moco, relloc),
    # b0 .. b3 once; with a search each is held out in two folds.
    if search == 'off':
        assert left_out == 2 * 4 + 4


def test_folds_are_stratified_and_as_even_as_can_be(sets):
    plan = of_folds(sets)
    labels = [branch.tested.labels for branch in plan.branches]
    patients = np.array([np.bincount(own, minlength=2) // 2 for own in labels])
    assert patients.sum(0).tolist() == [30, 23]
    assert (np.ptp(patients, axis=0) <= 1).all()


def test_pretext_stages_of_folds_keep_their_own_keys(sets):
    plan = of_folds(sets, 'rot')
    keys = [branch.stages[0].key for branch in plan.branches]
    assert len(set(keys)) == FOLDS
    again = of_folds(sets, 'rot', **{'data.label_fraction': 0.5})
    assert [branch.stages[0].key for branch in again.branches] == keys


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'data.folds': 1}, '2 or more'),
        ({'data.folds': 61}, 'cannot be shared out'),
        ({'data.folds': 2, 'stage.classify.search.protocol': 'thesis',
          'stage.classify.search.epochs': 1}, 'use 3 or more'),
    ],
)  # fmt: skip
def test_folds_that_cannot_be(sets, changes, words):
    with pytest.raises(UserError, match=words):
        of_folds(sets, **changes)


def test_folds_need_a_readout(sets):
    with pytest.raises(UserError, match='tests a readout'):
        tiny.make_plan(sets['c'], 'rot', 'none', **{'data.folds': 3})
