"""What stages forget of each other: every task has its measure, and a run reports them."""

import contextlib
import dataclasses
import io
import json
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

from cxr_jax import report
from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.run import curriculum, retention
from cxr_jax.run.workdir import identity_of
from cxr_jax.store.bundle import read_parts
from cxr_jax.tasks import TASKS
from cxr_jax.train import state as states
from cxr_jax.train.probing import probe
from cxr_jax.train.validation import make_validator
from tests import tiny
from tests.tasks.one_step import SIZE, tiny_encoder

ASKED = {'monitor.retention': True}
FOUND = 'own view found'
# What tasks are measured by that are not judged by how an image finds itself.
MEASURES = {'rot': 'accuracy', 'relloc': 'accuracy', 'jigsaw': 'accuracy', 'genesis': 'loss'}


def small_stage(data, name):
    """The stage of a task with an encoder of two layers, and fresh parts as if it had left them."""
    stage = tiny.make_stages(data, name)[name]
    encoder = tiny_encoder(contract=stage.encoder.contract)
    stage = dataclasses.replace(stage, encoder=encoder)
    params, stats = encoder.init(jax.random.key(1), SIZE)
    parent = {'encoder': {'params': params, 'batch_stats': stats}}
    key = jax.random.key(2)
    parts = states.create(stage.task, encoder, optax.identity(), parent, key, 0.0).parts
    return stage, jax.device_get({part: parts[part] for part in stage.task.leaves})


@pytest.mark.parametrize('name', TASKS)
def test_every_task_has_a_measure(name, tiny_data):
    """On its own encoder twice, between them on one that tells nothing."""
    stage, own = small_stage(tiny_data, name)
    encoder = own['encoder']
    blind = encoder | {'params': jax.tree.map(np.zeros_like, encoder['params'])}
    row = retention._Row(stage, tiny.one_device())
    found = row.measured(own, [encoder, blind, encoder], Draws(50))
    assert found['stage'] == name and found['measure'] == MEASURES.get(name, FOUND)
    first, without, again = (cell['figure']['value'] for cell in found['cells'])
    images = stage.validation.images
    assert found['images'] == (images // 8 * 8 or images) and first == again
    assert again - first == found['cells'][2]['change']['value'] == 0
    if found['measure'] == FOUND:
        assert found['chance'] == 1 / min(images, 8) and found['over'] == 'patients'
        assert 0 <= without <= found['chance'] + 0.1 and 0 <= first <= 1
    elif found['measure'] == 'accuracy':
        # Every image gets the same answer: all answers are asked for equally often.
        classes = round(1 / found['chance'])
        assert classes == pytest.approx(1 / found['chance'])
        assert without <= 3 * found['chance'] and found['over'] == 'draws'
    else:
        assert without != first and not found['higher_is_better']


def test_a_teacher_is_where_its_student_is(tiny_data):
    """Also once the encoder has moved on."""
    stage, own = small_stage(tiny_data, 'moco')
    row = retention._Row(stage, tiny.one_device())
    state = row._state(own)
    for part in ('encoder', 'projector'):
        for tree in (state.extra['teacher'][part], own[part]['params']):
            jax.tree.map(np.testing.assert_array_equal, tree, state.params[part])
    moved = jax.tree.map(lambda x: x + 1, own['encoder'])
    later = retention._with_encoder(state, moved)
    for tree in (later.params['encoder'], later.extra['teacher']['encoder']):
        jax.tree.map(np.testing.assert_array_equal, tree, moved['params'])
    assert later.extra['teacher']['projector'] is state.extra['teacher']['projector']


@pytest.fixture(scope='module')
def run(tiny_data, tmp_path_factory):
    """(plan, workdir, results, what was printed) of rotations, MoCo and a classifier."""
    plan = tiny.make_plan(tiny_data, 'rot_moco', **ASKED)
    workdir = tmp_path_factory.mktemp('runs') / 'run'
    with tiny.compiled_once(), contextlib.redirect_stdout(io.StringIO()) as printed:
        results = curriculum.run(plan, workdir)
    return plan, workdir, results, printed.getvalue()


def test_a_run_tells_what_its_stages_forget(run):
    plan, workdir, results, printed = run
    found = json.loads((workdir / 'results.json').read_text())['retention']
    assert found['stages'] == ['rot', 'moco', 'classify'] and 'retention: measured in' in printed
    rot, moco = found['rows']
    assert (rot['stage'], rot['measure'], len(rot['cells'])) == ('rot', 'accuracy', 3)
    assert (moco['stage'], moco['measure'], len(moco['cells'])) == ('moco', FOUND, 2)
    assert rot['chance'] == pytest.approx(0.25)
    assert found['probe']['title'] == 'balanced accuracy'
    assert found['probe']['fitted'] == results['stages'][2]['data']['images']
    page = (workdir / 'results.md').read_text()
    assert '## What the stages forget' in page and 'after moco' in page
    assert 'Own measure of each stage' in report.format_table(results)


def test_the_probe_is_that_of_a_training(run):
    """Of the same images, at the encoders before any stage and after each."""
    plan, workdir, results, _ = run
    stage = plan.stages[-1]
    folders = [f'{row["stage"]}-{row["key"]}' for row in results['stages']]
    parts = [tiny.fresh_parts(stage.encoder)]
    parts += [read_parts(workdir.parent / 'stages' / folder) for folder in folders]
    for figure, own in zip(results['retention']['probe']['figures'], parts, strict=True):
        expected = probe(stage, tiny.one_device(), SimpleNamespace(parts=own))['ridge']
        assert figure['value'] == pytest.approx(expected)


def test_a_row_is_the_stages_own_measure_on_later_encoders(run, monkeypatch):
    """One draw of views: what a search of the learning rate would be judged by."""
    plan, workdir, results, _ = run
    stage, folders = plan.stages[0], {}
    for row in results['stages']:
        folders[row['stage']] = workdir.parent / 'stages' / f'{row["stage"]}-{row["key"]}'
    own, later = read_parts(folders['rot']), read_parts(folders['moco'])
    monkeypatch.setattr(retention, 'VIEWS', 1)
    mesh = tiny.one_device()
    row = retention._Row(stage, mesh)
    encoders = [own['encoder'], later['encoder']]
    cells = row.measured(own, encoders, Draws(10))['cells']
    same_images = dataclasses.replace(stage.validation, corpus=row._corpus)
    validate = make_validator(dataclasses.replace(stage, validation=same_images), mesh)
    for cell, encoder in zip(cells, encoders, strict=True):
        state = retention._with_encoder(row._state(own), encoder)
        assert cell['figure']['value'] == pytest.approx(validate(state), rel=1e-5)


def test_it_is_no_part_of_a_key_and_one_of_the_results(tiny_data):
    plans = [tiny.make_plan(tiny_data, 'rot_moco', **asked) for asked in ({}, ASKED)]
    one, other = ([stage.key for stage in plan.stages] for plan in plans)
    assert one == other
    assert identity_of(plans[0]) != identity_of(plans[1])


def test_where_nothing_is_forgotten_it_says_so(tiny_data, capsys):
    plan = tiny.make_plan(tiny_data, 'scratch', **ASKED)
    mesh = tiny.one_device()
    assert retention.measure(plan, plan.branches[0], {}, [], mesh) is None
    plan = tiny.make_plan(tiny_data, 'rot', **ASKED | {'data.folds': 3})
    assert retention.measure(plan, plan.branches[0], {}, [], mesh) is None
    printed = capsys.readouterr().out
    assert 'no stage follows another' in printed and 'no validation images' in printed
