"""Many images without labels, few with: MoCo on a, MoCo on b, classifier on a tenth of c's labels.

The sets are those of tests/small_sets.py.
"""

import contextlib
import dataclasses
import io
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax import report
from cxr_jax.run import curriculum
from cxr_jax.run.initial import initial_parts
from cxr_jax.store import bundle
from cxr_jax.store.bundle import read_description, read_parts
from cxr_jax.tasks.moco import MoCo
from data_pipelines.errors import UserError
from tests import small_sets, tiny
from tests.bare_sets import write_bare

SMALL = {'encoder.width': 4, 'keep': 'bundle'}
TWICE = {
    'stage.moco.data.sets': ('a',), 'stage.moco.epochs': 1, 'stage.moco.task.queue_size': 'auto',
    'stage.moco2.data.sets': ('b',), 'stage.moco2.epochs': 1,
}  # fmt: skip
FEW = {'data.label_fraction': 0.1, 'stage.classify.batch_size': 6}


def run(data, workdir, tasks, readout='classify', around=lambda step: step, **changes):
    """(results, what was printed)."""
    plan = tiny.make_plan(data, tasks, readout, **SMALL | changes)
    with tiny.compiled_once(around), contextlib.redirect_stdout(io.StringIO()) as printed:
        results = curriculum.run(plan, workdir)
    return results, printed.getvalue()


@pytest.fixture(scope='module')
def trained(sets, tmp_path_factory):
    """The run of this module's docstring."""
    workdir = tmp_path_factory.mktemp('runs') / 'few'
    results, printed = run(sets['c'], workdir, 'moco_moco', **TWICE, **FEW)
    return SimpleNamespace(
        data=sets['c'], workdir=workdir, results=results, printed=printed,
        store=workdir.parent / 'stages',
    )  # fmt: skip


def test_every_stage_tells_what_it_read_and_what_was_left_out(trained):
    written = json.loads((trained.workdir / 'results.json').read_text())
    rows = written['stages']
    assert [row['stage'] for row in rows] == written['curriculum'] == ['moco', 'moco2', 'classify']
    page = (trained.workdir / 'results.md').read_text()
    for row, name, images in zip(rows, 'ab', (27, 17), strict=False):
        same_patient, same_content = small_sets.PLANTED[name]
        left_out = {
            'images': same_patient + same_content, 'same_patient': same_patient,
            'same_content': same_content,
        }  # fmt: skip
        assert row['data']['left_out'] == left_out
        assert [part['name'] for part in row['data']['sets']] == [name]
        assert row['data']['images'] == images
        assert (
            f'{row["stage"]}: {images} images of {name}; {same_patient + same_content} left out: '
            f'{same_patient} of patients'
        ) in trained.printed
        told = read_description(trained.store / f'{row["stage"]}-{row["key"]}')
        assert told['data']['left_out'] == left_out
    assert 'left out' in page
    assert (rows[2]['data']['images'], rows[2]['data']['patients']) == (6, 3)


def test_a_task_may_come_twice_and_goes_on_from_itself(trained):
    moco, again, classify = trained.results['stages']
    assert (moco['parent_key'], again['parent_key']) == ('', moco['key'])
    assert classify['parent_key'] == again['key'] and not any(
        row['reused'] for row in trained.results['stages']
    )
    parts = [read_parts(trained.store / f'{r["stage"]}-{r["key"]}') for r in (moco, again)]
    weights = [jax.tree.leaves(part['encoder']['params']) for part in parts]
    moved = [np.abs(a - b).max() for a, b in zip(*weights, strict=True)]
    assert 0 < max(moved) < 0.5  # from where the first one ended, not from fresh weights
    # What auto became is told, in the report too.
    [note] = [note for note in moco['notes'] if 'queue_size' in note]
    assert note.startswith('queue_size = 24 (largest multiple of batch 8 within 27 images')
    assert note in trained.printed and note in (trained.workdir / 'results.md').read_text()


def test_the_readout_is_tested_on_its_own_patients(trained):
    table = np.load(trained.workdir / 'predictions.npz')
    index = trained.data.index
    tested = index.split == 'test'
    assert sorted(table['image_ids']) == sorted(index.image_id[tested])
    assert set(table['patients']) == set(index.patient[tested])
    test = trained.results['test']
    assert (test['images'], test['patients'], test['exclusive']) == (24, 12, True)
    assert trained.results['data']['counts'] == {'train': 84, 'validation': 12, 'test': 24}


def test_another_curriculum_shares_the_stages_and_needs_no_readout(trained):
    """moco, moco2 are found; rot is trained on c's own images; the run leaves an encoder."""
    workdir = trained.workdir.parent / 'longer'
    changes = TWICE | {'stage.rot.epochs': 1, 'stage.rot.batch_size': 42}
    results, printed = run(trained.data, workdir, 'moco_moco_rot', 'none', **changes)
    shared = trained.results['stages'][:2]
    assert [row['key'] for row in results['stages'][:2]] == [row['key'] for row in shared]
    assert [row['reused'] for row in results['stages']] == [True, True, False]
    assert printed.count('found finished') == 2
    assert results['stages'][2]['data']['images'] == 84
    assert results['test'] is results['attention'] is None
    assert not (workdir / 'predictions.npz').exists()
    assert results['curriculum'] == ['moco', 'moco2', 'rot']
    assert 'rot' in report.format_table(results)
    assert (trained.store / results['bundles'][0] / 'encoder.safetensors').is_file()


@pytest.mark.parametrize(
    'changes',
    [
        {'stage.moco.checkpoint_epochs': 0.5, 'stage.classify.checkpoint_epochs': 7.0},
        {'eval.batch_size': 8},
        {'encoder.dtype': 'float32'},
        {'keep': 'all', 'monitor.health_looks': 3, 'data.on_device': 0.5},
        {'stage.moco.search.low': 0.001, 'stage.moco.optimizer.trust': 0.5},
    ],
)
def test_a_finished_run_is_found_whatever_changes_no_result(trained, changes, monkeypatch):
    monkeypatch.setattr(report, 'write_report', None)  # not written again
    again, printed = run(
        trained.data, trained.workdir, 'moco_moco', around=tiny.no_training,
        **TWICE | FEW | changes,
    )  # fmt: skip
    assert again == json.loads((trained.workdir / 'results.json').read_text()) and not printed


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'eval.resamples': 50}, 'eval.resamples: 100, 50'),
        ({'stage.moco.optimizer.lr': 0.5}, 'stage.moco.optimizer.lr: 0.1, 0.5'),
        ({'data.label_fraction': 0.2}, 'data.label_fraction: 0.1, 0.2'),
    ],
)
def test_another_run_is_refused_with_the_differences(trained, changes, told):
    with pytest.raises(UserError) as refused:
        run(trained.data, trained.workdir, 'moco_moco', **TWICE | FEW | changes)
    assert told in str(refused.value) and str(refused.value).count('\n') == 1


def folder_of(trained, number: int):
    row = trained.results['stages'][number]
    return trained.store / f'{row["stage"]}-{row["key"]}'


def test_a_run_may_start_from_a_finished_stage(trained, tmp_path):
    folder = folder_of(trained, 1)
    plan = tiny.make_plan(
        trained.data, 'rot', **SMALL, **{'encoder.weights': str(folder)}
    )  # fmt: skip
    contract = plan.branches[0].encoder.contract
    assert dataclasses.asdict(contract) == read_description(folder)['contract']
    fresh = tiny.make_plan(trained.data, 'rot', **SMALL)
    # a's, with which it was trained; not c's.
    assert abs(contract.mean - fresh.branches[0].encoder.contract.mean) > 0.1
    parts = initial_parts(plan, plan.branches[0])
    for kind in ('params', 'batch_stats'):
        jax.tree.map(
            np.testing.assert_array_equal,
            parts['encoder'][kind],
            read_parts(folder)['encoder'][kind],
        )
    # The key knows what is in the folder, not where it lies.
    moved = shutil.copytree(folder, tmp_path / 'elsewhere')
    again = tiny.make_plan(trained.data, 'rot', **SMALL, **{'encoder.weights': str(moved)})
    keys = [[stage.key for stage in p.stages] for p in (plan, again, fresh)]
    assert keys[0] == keys[1] and not set(keys[0]) & set(keys[2])
    other = tiny.make_plan(
        trained.data, 'rot', **SMALL, **{'encoder.weights': str(folder_of(trained, 0))}
    )
    assert other.stages[0].key != plan.stages[0].key


@pytest.mark.parametrize(
    ('size', 'changes', 'words'),
    [
        (48, {'data.size': 48}, ['size 40, not 48']),
        (40, {'data.region': 'lungs_gray'}, ['region full, not lungs_gray']),
        (40, {'encoder.channels': 3}, ['channels 1, not 3']),
        (40, {'bits': 16}, ['16 bits', '8 bits']),
    ],
)
def test_a_finished_stage_refuses_images_of_another_kind(trained, tmp_path, size, changes, words):
    bits = changes.get('bits', 8)
    data = write_bare(tmp_path, 'other', size, bits=bits)
    changes = {k: v for k, v in changes.items() if k != 'bits'}
    with pytest.raises(UserError) as refused:
        tiny.make_plan(
            data, 'rot', **SMALL | changes, **{'encoder.weights': str(folder_of(trained, 0))}
        )
    for word in words:
        assert word in str(refused.value)


def test_a_finished_stage_refuses_another_network(trained):
    plan = tiny.make_plan(
        trained.data, 'rot',
        **SMALL | {'encoder.width': 8, 'encoder.weights': str(folder_of(trained, 0))},
    )  # fmt: skip
    with pytest.raises(UserError, match='does not fit this model'):
        initial_parts(plan, plan.branches[0])


def test_folders_that_hold_no_finished_stage_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match='bundle.json'):
        tiny.make_plan(trained.data, 'rot', **{'encoder.weights': str(tmp_path)})
    with pytest.raises(UserError, match='cannot be read'):
        tiny.make_plan(trained.data, 'rot', **{'encoder.weights': str(tmp_path / 'nowhere')})


def test_the_key_knows_all_parts_that_the_first_stage_takes(trained, monkeypatch, tmp_path):
    """Not the encoder alone: a task may go on training its projector too."""
    copy = shutil.copytree(folder_of(trained, 0), tmp_path / 'copy')
    parts = read_parts(copy)
    parts['projector'] = jax.tree.map(lambda leaf: leaf + 1, parts['projector'])
    told = {k: v for k, v in read_description(copy).items() if k not in bundle.OWN}
    bundle.write_bundle(copy, parts, told)

    def key(folder):
        changes = {'encoder.weights': str(folder), 'stage.moco.task.queue_size': 'auto'}
        return tiny.make_plan(trained.data, 'moco', **SMALL | changes).stages[0].key

    assert key(copy) == key(folder_of(trained, 0))
    monkeypatch.setattr(MoCo, 'takes', ('encoder', 'projector'))
    assert key(copy) != key(folder_of(trained, 0))
