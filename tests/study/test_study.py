"""A study: what it plans and shares, what several workers do to one store, what it concludes."""

import functools
import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.study import get_config
from cxr_jax.evaluation.measures import headline
from cxr_jax.run import initial
from cxr_jax.run.results import PREDICTIONS_FILE
from cxr_jax.store.bundle import BUNDLE, read_description, write_bundle
from cxr_jax.study import work
from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus
from tests import tiny
from tests.run.test_killed_process import wait_until

ROOT = pathlib.Path(__file__).parents[2]
CURRICULA, REGIONS = ('scratch', 'rot', 'relloc', 'rot_relloc'), ('full', 'lungs_black')


def overrides(data, regions=REGIONS) -> dict:
    """Flat: a study of tests.tiny."""
    run = {f'run.{k}': v for k, v in tiny.settings('moco_swav_rot_relloc').items()}
    run |= {'run.data.dir': str(data.directory.parents[1]), 'run.stage.rot.search.protocol': 'off'}
    return run | {'axes.curriculum': CURRICULA, 'axes.region': regions, 'compare.resamples': 200}


def tiny_study(data, **changes) -> ConfigDict:
    config = get_config('demo')
    config.update_from_flattened_dict(overrides(data) | changes)
    return ConfigDict(config.to_dict())


def planned(data, workdir, **changes):
    """(jobs, counts) of a study, for one device."""
    with tiny.compiled_once():
        jobs = work.plan_jobs(tiny_study(data, **changes), workdir)
    return jobs, work.count_stages(jobs, workdir / 'stages')


def test_the_plan_counts_every_stage_once(tiny_data, tmp_path):
    """Per region: 1 + 2 + 2 + 3 stages, of which rot of the pair is that of the single task."""
    _, counts = planned(tiny_data, tmp_path)
    assert (counts['runs'], counts['stages']) == (8, 16)
    assert (counts['distinct'], counts['shared'], counts['trained']) == (14, 2, 14)
    assert counts['estimated_seconds'] is None
    two = {'axes.classes': ('all', ('negative', 'typical')), 'seeds': (0, 1)}
    jobs, counts = planned(tiny_data, tmp_path, **two)
    # Pretext tasks see all images, so both sets of classes share them: 3 of 7 stages a region.
    assert counts['distinct'] == 2 * 2 * (3 + 2 * 4)
    names = {job.cell.levels['classes']: job.plan.stages[-1].facts.names for job in jobs}
    assert names['negative/typical'] == ('negative', 'typical') and len(names['all']) == 4


def test_the_time_is_estimated_from_finished_stages_of_the_same_tasks(tiny_data, tmp_path):
    """8 batches of 8 images each; every stage at its task's median rate, and its compilation."""
    store = tmp_path / 'stages'

    def finish(name, task, rate):
        (store / name).mkdir(parents=True)
        write_bundle(store / name, {}, {'task': task, 'images_per_second': rate})

    for i, (task, rate) in enumerate([('rot', 2), ('rot', 4), ('rot', 40), ('relloc', 8)]):
        finish(f'{task}-{i}', task, rate)
    assert planned(tiny_data, tmp_path)[1]['estimated_seconds'] is None
    finish('classify-0', 'classify', 16)
    (store / 'rot-9').mkdir()
    (store / 'rot-9' / BUNDLE).write_text('{')
    assert work.rates_of(store) == {'rot': 4, 'relloc': 8, 'classify': 16}
    _, counts = planned(tiny_data, tmp_path, **{'axes.curriculum': ('scratch', 'rot')})
    seconds = 2 * (64 / 4 + 2 * 64 / 16 + 3 * work.COMPILE_SECONDS)
    assert counts['estimated_seconds'] == pytest.approx(seconds, abs=0.1)


def test_sets_are_opened_once_and_each_cell_is_planned_once(tiny_data, tmp_path, monkeypatch):
    """What runs is the plan that was made, with its notes on what was chosen for the user."""
    opened, made, ran = [], [], []
    open_sets, make_plan = work.open_sets, work.make_plan

    def opening(config):
        opened.append(config.data.name)
        return open_sets(config)

    def planning(*arguments):
        made.append(make_plan(*arguments))
        return made[-1]

    def running(plan, workdir, banner, command):
        ran.append(plan)
        return {'test': None}

    monkeypatch.setattr(work, 'open_sets', opening)
    monkeypatch.setattr(work, 'make_plan', planning)
    monkeypatch.setattr(work.curriculum, 'run', running)
    automatic = {'run.stage.moco.task.queue_size': 'auto', 'seeds': (0, 1),
                 'axes.curriculum': ('scratch', 'moco', 'moco_rot')}  # fmt: skip
    jobs, _ = planned(tiny_data, tmp_path, **automatic)
    work.work_through(jobs, '', '')
    assert len(opened) == 1
    assert len(ran) == 12 and [id(plan) for plan in ran] == [id(plan) for plan in made]
    for job in jobs:
        notes = job.plan.notes.get('moco', [])
        assert ('moco' in job.tasks) == any('queue_size = ' in note for note in notes)


def test_batch_sizes_may_be_searched_with_an_automatic_queue(tiny_data, tmp_path):
    """Every candidate has a queue of its own, a multiple of its batch."""
    searched = {'axes.curriculum': ('moco',), 'axes.region': ('full',),
                'run.stage.moco.task.queue_size': 'auto', 'run.stage.moco.search.epochs': 1,
                'run.stage.moco.search.protocol': 'thesis', 'run.stage.moco.search.count': 1,
                'run.stage.moco.search.batch_sizes': (8, 12)}  # fmt: skip
    [job], _ = planned(tiny_data, tmp_path, **searched)
    trials = job.plan.stages[0].search.trials
    assert [trial.settings.batch_size for trial in trials] == [8, 12]
    assert all(t.task.queue_size % t.settings.batch_size == 0 for t in trials)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'axes.classes': (('negative', 'unknown'),)}, 'classes negative/unknown, seed 0: .*unkn'),
        ({'axes.region': ('lungs',)}, 'scratch, region lungs, .*data.region=lungs is not known'),
        ({'compare.axis': 'regions'}, 'compare.axis=regions is no axis'),
    ],
)
def test_what_cannot_be_planned(changes, words, tiny_data, tmp_path):
    with pytest.raises(UserError, match=words):
        planned(tiny_data, tmp_path, **changes)


@pytest.fixture(scope='module')
def alone(tiny_data, tmp_path_factory):
    """(workdir, study dict) of one worker, in this process."""
    workdir = tmp_path_factory.mktemp('alone')
    with tiny.compiled_once():
        return workdir, work.run(tiny_study(tiny_data), workdir)


def trained(workdir) -> dict:
    """Stage folder -> (hashes of its parameters, number of sessions)."""
    found = {}
    for path in (workdir / 'stages').glob(f'*/{BUNDLE}'):
        told = read_description(path.parent)
        hashes = {name: part['sha256'] for name, part in told['parts'].items()}
        found[path.parent.name] = hashes, len(told['sessions'])
    return found


def test_what_was_trained_is_what_was_planned(alone):
    workdir, found = alone
    assert len(trained(workdir)) == found['plan']['distinct'] == 14
    assert set(trained(workdir)) == set(found['plan']['missing'])
    names = [(cell['levels']['region'], cell['levels']['curriculum']) for cell in found['cells']]
    assert names == [(region, name) for region in REGIONS for name in CURRICULA]
    for cell in found['cells']:
        assert (workdir / cell['directory'] / 'gallery.png').is_file()
    assert (workdir / 'study.md').is_file() and list((workdir / 'plots').glob('*.png'))
    stages = [path for path in (workdir / 'stages').glob('*-*/**/*') if path.is_file()]
    assert found['plan']['bytes'] == sum(path.stat().st_size for path in stages)


def test_labels_and_comparisons_follow_from_the_runs(alone):
    """Recomputed from the predictions: the pair's label, the family's size, the differences."""
    workdir, found = alone

    def accuracy(region, name):
        folder = f'classes=all/region={region}/curriculum={name},seed=0'
        table = np.load(workdir / 'runs' / folder / PREDICTIONS_FILE)
        predicted = table['scores'].argmax(1)
        return np.mean([(predicted[table['labels'] == k] == k).mean() for k in range(4)])

    assert found['headline'] == headline(True).name
    for region in REGIONS:
        rot, relloc = accuracy(region, 'rot'), accuracy(region, 'relloc')
        order = 'curriculum' if relloc > rot else 'anti-curriculum' if relloc < rot else 'mixed'
        levels = {'curriculum': 'rot_relloc', 'region': region, 'classes': 'all'}
        [cell] = [cell for cell in found['cells'] if cell['levels'] == levels]
        assert (cell['label'], cell['title']) == (f'full {order}', 'rot → relloc')
    for row in found['comparisons']['comparisons']:
        one, other = (accuracy(row['levels']['region'], row[x]) for x in ('first', 'second'))
        assert row['difference']['value'] == pytest.approx(one - other, abs=1e-9)
    # scratch and the best single task, each against the other three curricula, one pair once.
    assert [f['comparisons'] for f in found['comparisons']['families']] == [5, 5]


def test_a_finished_study_is_shown_not_repeated(alone, tiny_data):
    workdir, found = alone
    with tiny.compiled_once(tiny.no_training):
        again = work.run(tiny_study(tiny_data), workdir)
    assert again['plan']['found'] == 14 and again['plan']['trained'] == 0
    assert again['means'] == found['means'] and again['comparisons'] == found['comparisons']


def test_folds_times_seeds_give_every_image_once_per_seed(tiny_data, tmp_path, monkeypatch):
    """5 folds x 3 seeds, one run a seed: out of fold, every labelled image of the set."""
    # One normalisation for all folds, so that what is compiled for one serves all.
    monkeypatch.setattr(Corpus, 'statistics', lambda self, region: {'mean': 0.5, 'std': 0.25})
    monkeypatch.setattr(initial, 'starting_parts', functools.cache(initial.starting_parts))
    changes = {'axes.curriculum': ('scratch',), 'axes.region': ('full',), 'seeds': (0, 1, 2),
               'run.data.folds': 5, 'run.stage.classify.epochs': 1}  # fmt: skip
    with tiny.compiled_once():
        found = work.run(tiny_study(tiny_data, **changes), tmp_path)
    everything = sorted(tiny_data.corpus().column('image_id').tolist())
    for cell in found['cells']:
        table = np.load(tmp_path / cell['directory'] / PREDICTIONS_FILE)
        assert sorted(table['image_ids'].tolist()) == everything
    [mean] = found['means']
    assert found['folds'] == 5 and mean['seeds'] == [0, 1, 2]
    assert mean['images'] == len(everything)
    assert len(mean['figures'][found['headline']]['per_seed']) == 3
    assert found['plan']['distinct'] == 15


def test_killed_and_shared_by_two_workers(alone, tiny_data, tmp_path):
    """One is killed while it trains; two others finish: each stage once, all results equal.

    One region of the study.
    """
    workdir, said = tmp_path / 'study', tmp_path / 'said'
    environment = tiny.environment(1)
    words = [f'--config.{k}={v!r}' if isinstance(v, tuple) else f'--config.{k}={v}'
             for k, v in overrides(tiny_data, REGIONS[:1]).items()]  # fmt: skip
    command = [sys.executable, '-m', 'tests.program', 'cxr_jax.study', f'--workdir={workdir}',
               '--config=configs/study.py:demo', *words]  # fmt: skip

    def start():
        with open(said, 'a') as out:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
            )

    first = start()
    wait_until(lambda: any(workdir.glob('stages/*.partial/checkpoints/4')), first, said)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    workers = [start(), start()]
    assert [worker.wait() for worker in workers] == [0, 0], said.read_text()
    expected, shared = trained(alone[0]), trained(workdir)
    assert len(shared) == 7
    assert {k: v[0] for k, v in shared.items()} == {k: expected[k][0] for k in shared}
    # The killed one's stage has a second session; nothing else was started twice.
    assert sorted(v[1] for v in shared.values()) == [1] * 6 + [2]
    assert not list(workdir.glob('stages/*.broken')) and not list(workdir.glob('stages/*.partial'))
    found = json.loads((workdir / 'study.json').read_text())
    means = [mean for mean in alone[1]['means'] if mean['levels']['region'] == REGIONS[0]]
    assert [mean['figures'] for mean in found['means']] == [mean['figures'] for mean in means]
