"""Runs whose data, store and workdir lie at a URL, seen by several machines."""

import json

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cxr_jax.run import curriculum, plan
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.results import PREDICTIONS_FILE
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import inspection
from cxr_jax.store.stages import StageDirectory
from data_pipelines.errors import UserError
from data_pipelines.storage import units
from data_pipelines.storage.places import local
from tests import tiny
from tests.bare_sets import write_bare
from tests.run.test_bad_input import CONFIG, HERE, SIZE, assert_refused
from tests.study.test_study import planned

DATA, STORE, RUNS = (f'memory://bucket/{name}' for name in ('data', 'stages', 'runs'))


@pytest.fixture
def at_url(tiny_data, machine):
    """The prepared set of tests.tiny at DATA, copied there by hand."""
    for path in tiny_data.directory.rglob('*'):
        if path.is_file():
            name = path.relative_to(tiny_data.data_dir)
            MemoryFileSystem().put_file(str(path), f'/bucket/data/{name}')


def run(tiny_data, workdir, around=lambda step: step, tasks='scratch', **changes):
    """curriculum.run of a tiny run at URLs."""
    config = tiny.make_config(tiny_data, tasks, **changes)
    config.data.dir, config.store = DATA, STORE
    with tiny.compiled_once(around):
        return curriculum.run(plan.make_plan(config, open_sets(config), 1), local(workdir))


def files_at(url):
    root = '/' + url.partition('://')[2] + '/'
    return [name.removeprefix(root) for name in MemoryFileSystem.store if name.startswith(root)]


def test_another_machine_trains_nothing_that_is_there(tiny_data, at_url, machine, capsys):
    results = run(tiny_data, f'{RUNS}/a', keep='bundle')
    assert 'both arrive at the same' in capsys.readouterr().out
    [bundle] = results['bundles']
    assert f'{bundle}/bundle.json' in files_at(STORE) and not any(
        'checkpoints' in name or '.partial' in name for name in files_at(STORE)
    )
    assert {'results.json', 'results.md', PREDICTIONS_FILE, units.LIST} <= {*files_at(f'{RUNS}/a')}

    machine('two')
    again = run(tiny_data, f'{RUNS}/b', tiny.no_training, keep='bundle')
    assert again['test'] == results['test'] and again['stages'][0]['reused']
    machine('three')
    assert run(tiny_data, f'{RUNS}/a', tiny.no_training, keep='bundle') == json.loads(
        json.dumps(results)
    )
    assert not local(f'{STORE}/{bundle}').exists()  # the results were enough
    with pytest.raises(UserError, match=f'{RUNS}/a holds a run with other settings'):
        run(tiny_data, f'{RUNS}/a', tiny.no_training, seed=1)


def test_a_stage_stopped_here_goes_on_elsewhere(tiny_data, undisturbed, machine):
    stage, straight, directory = undisturbed('rot')
    with pytest.raises(Interrupted):
        tiny.run(stage, local(STORE), around=tiny.sigterm_at(5), keep='all')
    machine('two')
    first = []

    def counted(step):
        def stepping(state, batch):
            first.append(int(state.step) + 1)
            return step(state, batch)

        return stepping

    outcome = tiny.run(stage, local(STORE), around=counted, keep='all')
    assert first == list(range(6, tiny.STEPS + 1)) and outcome.description['resumed'] == 1
    tiny.assert_same_training(StageDirectory(local(STORE), 'rot', stage.key), directory)
    assert not any('.partial' in name for name in files_at(STORE))
    # The machine that was stopped takes what the other has finished.
    machine('one')
    found = tiny.run(stage, local(STORE), around=tiny.no_training)
    assert found.description == outcome.description
    assert straight.description['params_sha256'] == found.description['params_sha256']


def test_what_is_further_here_is_not_replaced_by_less(tiny_data, machine):
    stage = tiny.make_stages(tiny_data, 'rot')['rot']
    with pytest.raises(Interrupted):
        tiny.run(stage, local(STORE), around=tiny.sigterm_at(3))
    machine('two')
    with pytest.raises(Interrupted):
        tiny.run(stage, local(STORE), around=tiny.sigterm_at(6))
    directory = StageDirectory(local(STORE), 'rot', stage.key)
    units.remove(directory.partial)
    machine('one')
    StageDirectory(local(STORE), 'rot', stage.key).copy_up()  # steps 1 to 3 again
    machine('two')
    directory.bring()
    assert (directory.partial / 'checkpoints' / '6').is_dir()


@pytest.mark.parametrize('damage', ['bundle.json', 'encoder.safetensors'])
def test_a_damaged_stage_there_is_trained_again_and_replaced(tiny_data, machine, capsys, damage):
    stage = tiny.make_stages(tiny_data, 'rot')['rot']
    before = tiny.run(stage, local(STORE), keep='bundle')
    name = f'/bucket/stages/{before.folder.name}/{damage}'
    whole = MemoryFileSystem.store[name].getvalue()
    MemoryFileSystem().pipe_file(name, whole[:-8] + b'12345678')
    machine('two')
    after = tiny.run(stage, local(STORE), keep='bundle')
    assert not after.reused and 'trained again' in capsys.readouterr().out
    assert after.description['params_sha256'] == before.description['params_sha256']
    machine('three')
    assert tiny.run(stage, local(STORE), around=tiny.no_training).reused


def test_a_stage_that_could_not_be_copied_up_is_at_the_next_start(tiny_data, machine, monkeypatch):
    stage = tiny.make_stages(tiny_data, 'rot')['rot']

    def fail(*args, **more):
        raise PermissionError('no right to write')

    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, 'put_file', fail)
        with pytest.raises(UserError, match='no right to write.*nothing is lost'):
            tiny.run(stage, local(STORE))
    machine('two')
    assert not units.pull(StageDirectory(local(STORE), 'rot', stage.key).finished, 'bundle.json')
    machine('one')
    assert tiny.run(stage, local(STORE), around=tiny.no_training).reused
    machine('two')
    assert tiny.run(stage, local(STORE), around=tiny.no_training).reused


def test_finished_stages_are_inspected_and_started_from_at_their_url(
    tiny_data, at_url, machine, capsys
):
    results = run(tiny_data, f'{RUNS}/a', tasks='rot', readout='none', keep='bundle')
    bundle = f'{STORE}/{results["bundles"][0]}'
    for number, path in enumerate((f'{RUNS}/a', bundle)):
        machine(f'reader {number}')
        assert inspection.main(['inspect', path]) == 0
        assert 'encoder' in capsys.readouterr().out

    def key(weights):
        config = tiny.make_config(tiny_data, 'scratch', **{'encoder.weights': str(weights)})
        return plan.make_plan(config, open_sets(config), 1).stages[0].key

    machine('starter')
    assert key(bundle) == key(local(bundle)) != key('')


def test_a_workdir_needs_a_folder_in_the_bucket(command, machine):
    outcome = command('--config', f'{CONFIG}:rot,preset=demo', '--workdir=memory://bucket')
    assert_refused(outcome, 'whole bucket', 'memory://bucket/runs/rot-demo')


@pytest.mark.parametrize('option', ['--workdir', '--config.store', '--config.data.dir'])
def test_no_folder_is_called_like_a_scheme(command, tmp_path, option):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    words = ['--config', f'{CONFIG}:rot,preset=demo', HERE, f'{option}=hdfs://bucket/x']
    assert_refused(command(*words), 'hdfs://bucket/x cannot be used')
    assert not list(tmp_path.glob('hdfs*'))


def test_a_study_counts_what_is_finished_at_the_url(tiny_data, machine):
    """The first stage of the curriculum rot is there."""
    study = local('memory://bucket/study')
    jobs, counts = planned(tiny_data, study, **{'axes.region': ('full',)})
    assert counts['found'] == 0
    stage = next(job.plan.stages[0] for job in jobs if job.tasks == ('rot',))
    tiny.run(stage, study / 'stages', keep='bundle')
    machine('two')
    study = local('memory://bucket/study')
    _, after = planned(tiny_data, study, **{'axes.region': ('full',)})
    assert after['found'] == 1 and after['trained'] == counts['trained'] - 1
