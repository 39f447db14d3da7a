"""A study: what it plans and shares, what several workers do to one store, what it concludes."""

import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.study import get_config, orderings
from cxr_jax.store.stages import MANIFEST
from cxr_jax.study import work as study
from data_pipelines.errors import UserError
from tests import tiny
from tests.run.test_killed_process import wait_until

ROOT = pathlib.Path(__file__).parents[2]
CURRICULA, REGIONS = ('scratch', 'rot', 'relloc', 'rot_relloc'), ('full', 'lungs_black')


def overrides(data) -> dict:
    """Flat: a study of tests.tiny."""
    run = {f'run.{k}': v for k, v in tiny.settings('moco_swav_rot_relloc').items()}
    run |= {'run.data.dir': str(data.directory.parents[1]), 'run.stage.rot.search.protocol': 'off'}
    return run | {'curricula': CURRICULA, 'regions': REGIONS, 'resamples': 200}


def tiny_study(data, **changes) -> ConfigDict:
    config = get_config('demo')
    config.update_from_flattened_dict(overrides(data) | changes)
    return ConfigDict(config.to_dict())


def test_the_studies_lists():
    """The reference study: 4 single tasks, 12 ordered pairs, 6 triples that begin with MoCo."""
    thesis = get_config('thesis')
    lengths = [name.count('_') for name in thesis.curricula if name not in ('scratch', 'imagenet')]
    assert [lengths.count(n) for n in range(4)] == [4, 12, 6, 0]
    assert len(set(thesis.curricula)) == 24 and thesis.class_sets == ('all', 'negative/typical')
    assert all(name.startswith('moco_') for name in thesis.curricula if name.count('_') == 2)
    searches = {name: s.search.epochs for name, s in thesis.run.stage.items()}
    assert searches == dict.fromkeys(('moco', 'swav', 'rot', 'relloc'), 20) | {'classify': 70}
    everything = get_config('orderings,length=4,preset=demo').curricula
    assert len(everything) == 1 + 4 + 12 + 24 + 24 == len(set(everything))
    assert orderings(2, 'rot') == ('rot_moco', 'rot_swav', 'rot_relloc')
    for wrong in ('nothing', 'thesis,length=2', 'orderings,length=5', 'demo,preset=x'):
        with pytest.raises(UserError):
            get_config(wrong)


def test_the_plan_counts_every_stage_once(tiny_data, tmp_path):
    """Per region: 1 + 2 + 2 + 3 stages, of which rot of the pair is that of the single task."""
    config = tiny_study(tiny_data)
    jobs = study.plan_jobs(config, tiny_data, tmp_path)
    planned = study.count_stages(jobs, tmp_path / 'stages')
    assert (planned['curricula'], planned['runs'], planned['stages']) == (4, 8, 16)
    assert (planned['distinct'], planned['shared'], planned['trained']) == (14, 2, 14)
    assert planned['estimated_seconds'] is None
    two = tiny_study(tiny_data, class_sets=('all', 'negative/typical'), seeds=(0, 1))
    jobs = study.plan_jobs(two, tiny_data, tmp_path)
    # Pretext tasks see all images, so both sets of classes share them: 3 of 7 stages a region.
    assert study.count_stages(jobs, tmp_path)['distinct'] == 2 * 2 * (3 + 2 * 4)
    assert {job.plan.stages[-1].facts.classes for job in jobs if job.class_set != 'all'} == {
        ('negative', 'typical')
    }
    chosen = [job for job in jobs if job.class_set != 'all'][0].plan.stages[-1].data
    assert chosen.counts['train'] == sum(tiny_data.class_counts['train'][:2])


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'curricula': ('rot_nothing',)}, "'rot_nothing' in --config.curricula"),
        ({'curricula': ('rot_rot',)}, 'join different pretext tasks'),
        ({'class_sets': ('negative/unknown',)}, 'classes negative, unknown cannot be chosen'),
        ({'regions': ('lungs',)}, 'data.region=lungs is not known'),
        ({'seeds': ()}, 'The study is empty'),
    ],
)
def test_what_cannot_be_planned(changes, words, tiny_data, tmp_path):
    with pytest.raises(UserError, match=words):
        study.plan_jobs(tiny_study(tiny_data, **changes), tiny_data, tmp_path)


@pytest.fixture(scope='module')
def alone(tiny_data, tmp_path_factory):
    """(workdir, study dict) of one worker, in this process."""
    workdir = tmp_path_factory.mktemp('alone')
    with tiny.compiled_once():
        return workdir, study.run(tiny_study(tiny_data), workdir)


def trained(workdir) -> dict:
    """Stage folder -> (hash of its parameters, number of sessions)."""
    found = {}
    for path in (workdir / 'stages').glob(f'*/{MANIFEST}'):
        manifest = json.loads(path.read_text())
        found[path.parent.name] = manifest['sha256'], len(manifest['sessions'])
    return found


def test_what_was_trained_is_what_was_planned(alone):
    workdir, found = alone
    assert len(trained(workdir)) == found['plan']['distinct'] == 14
    assert set(trained(workdir)) == set(found['plan']['missing'])
    names = [(run['region'], run['name']) for run in found['curricula']]
    assert names == [(region, name) for region in REGIONS for name in CURRICULA]
    for run in found['curricula']:
        assert (workdir / run['directory'] / 'gallery.png').is_file()
    assert (workdir / 'study.md').is_file() and list((workdir / 'plots').glob('*.png'))


def test_labels_and_comparisons_follow_from_the_runs(alone):
    """Recomputed from the predictions: the pair's label, the family's size, the differences."""
    workdir, found = alone

    def accuracy(region, name):
        table = np.load(workdir / 'runs' / f'{region}-all' / f'{name}-seed0' / 'predictions.npz')
        predicted = table['probabilities'].argmax(1)
        return np.mean([(predicted[table['labels'] == k] == k).mean() for k in range(4)])

    for region in REGIONS:
        rot, relloc = accuracy(region, 'rot'), accuracy(region, 'relloc')
        order = 'curriculum' if relloc > rot else 'anti-curriculum' if relloc < rot else 'mixed'
        [label] = [run['label'] for run in found['curricula']
                   if (run['region'], run['name']) == (region, 'rot_relloc')]  # fmt: skip
        assert label == f'full {order}'
    for row in found['comparisons']['comparisons']:
        one, other = (accuracy(row['region'], row[which]) for which in ('name', 'reference'))
        assert row['difference']['value'] == pytest.approx(one - other, abs=1e-9)
    # scratch and the best single task, each against the other three curricula, one pair once.
    assert [f['comparisons'] for f in found['comparisons']['families']] == [5, 5]


def test_a_finished_study_is_shown_not_repeated(alone, tiny_data):
    workdir, found = alone
    with tiny.compiled_once(tiny.no_training):
        again = study.run(tiny_study(tiny_data), workdir)
    assert again['plan']['found'] == 14 and again['plan']['trained'] == 0
    assert again['means'] == found['means'] and again['comparisons'] == found['comparisons']


def test_killed_and_shared_by_two_workers(alone, tiny_data, tmp_path):
    """One is killed while it trains; two others finish: each stage once, all results equal."""
    workdir, said = tmp_path / 'study', tmp_path / 'said'
    environment = tiny.environment(1, **tiny.keeping_compiled(tmp_path / 'compiled'))
    words = [f'--config.{k}={v!r}' if isinstance(v, tuple) else f'--config.{k}={v}'
             for k, v in overrides(tiny_data).items()]  # fmt: skip
    command = [sys.executable, '-m', 'cxr_jax.study', '--config=configs/study.py:demo',
               f'--workdir={workdir}', *words]  # fmt: skip

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
    assert {k: v[0] for k, v in shared.items()} == {k: v[0] for k, v in expected.items()}
    # The killed one's stage has a second session; nothing else was started twice.
    assert sorted(v[1] for v in shared.values()) == [1] * 13 + [2]
    assert not list(workdir.glob('stages/*.broken')) and not list(workdir.glob('stages/*.partial'))
    found = json.loads((workdir / 'study.json').read_text())
    for one, other in zip(found['means'], alone[1]['means'], strict=True):
        assert one['balanced_accuracy'] == other['balanced_accuracy']
