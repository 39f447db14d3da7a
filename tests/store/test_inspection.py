"""What `inspect` prints is what was saved: names, shapes, dtypes, step, hash and stage chain."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.store import inspection, trees
from cxr_jax.store.checkpoint import ABOUT, ABOUT_FILE, Checkpoints
from cxr_jax.store.files import write_json
from cxr_jax.store.stages import SESSIONS, StageDirectory
from data_pipelines.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
KEY, PARENT, FIRST = 'a' * 16, 'b' * 16, 'c' * 16


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    extra: dict


def make(step):
    encoder = {'conv1': {'kernel': jnp.ones((3, 3, 1, 4))}, 'scale': jnp.ones(4, jnp.bfloat16)}
    params = {'encoder': encoder, 'projector': {'kernel': jnp.ones((4, 2))}}
    return State(jnp.asarray(step), params, ({}, params), {'queue': jnp.ones((16, 2))})


def parts():
    params = make(8).params
    return {name: {'params': tree, 'batch_stats': {}} for name, tree in params.items()}


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    """A store whose only stage stands at step 8, its checkpoint of step 4 kept."""
    directory = StageDirectory(tmp_path_factory.mktemp('stages'), 'moco2', KEY)
    with contextlib.closing(Checkpoints(directory.partial)) as checkpoints:
        for step in (4, 8):
            checkpoints.save(make(step))
    write_json(directory.partial / SESSIONS, {'parent_key': PARENT, 'sessions': []})
    return directory.store


@pytest.fixture
def directory(stored, tmp_path):
    return StageDirectory(shutil.copytree(stored, tmp_path / 'stages'), 'moco2', KEY)


def finish_parent(store, name, key, parent, **facts):
    parent = StageDirectory(store, name, key), {'key': key, 'parent_key': parent} | facts
    parent[0].partial.mkdir(parents=True)
    parent[0].finish(parts(), parent[1])


def row(text, *cells):
    """Whether a line has just these cells."""
    return re.search(rf'^{" +".join(map(re.escape, cells))}$', text, re.M)


def test_an_unfinished_stage(directory):
    finish_parent(directory.store, 'moco', PARENT, None, steps=600, learning_rate=0.125)
    text = inspection.describe(directory.partial)
    step = directory.partial / 'checkpoints' / '8'
    about = json.loads((step / ABOUT / ABOUT_FILE).read_text())
    arrays = trees.by_name(trees.as_dict(make(8)))
    assert f'SHA-256 of the arrays: {about["arrays_sha256"]}' in text
    assert about['arrays_sha256'] == trees.sha256(arrays)
    assert re.search(r'^Step 8, written 20\d\d-.* UTC; other steps there: 4$', text, re.M)
    assert row(text, 'moco2', KEY, 'unfinished', 'step 8')
    assert row(text, '<- moco', PARENT, 'finished', 'steps 600, rate 0.125')
    assert row(text, 'params/encoder/scale', '[4]', 'bfloat16', '8')
    assert row(text, 'extra/queue', '[16, 2]', 'float32', '128')
    assert row(text, 'step', '[]', 'int32', '4')
    for part, tree in {
        'total': make(8),
        'opt_state': make(8).params,
        'extra': make(8).extra,
    }.items():
        leaves = jax.tree.leaves(tree)
        sums = len(leaves), sum(x.size for x in leaves), sum(x.nbytes for x in leaves)
        assert row(text, part, *(f'{value:,}' for value in sums)), part
    assert row(text, '  projector', '1', '8', '32')


def test_a_finished_stage(directory):
    finish_parent(directory.store, 'moco', PARENT, FIRST, steps=600)
    told = directory.finish(parts(), {
        'task': 'moco', 'parent_key': PARENT, 'steps': 8, 'batch_size': 4, 'learning_rate': 0.5,
        'metrics': {'loss': 1.25}, 'sessions': [1], 'resumed': False,
    })  # fmt: skip
    text = inspection.describe(directory.finished)
    assert text.startswith(f'Bundle {directory.finished}\n')
    assert row(text, 'moco2', KEY, 'finished', 'steps 8, batch size 4, rate 0.5')
    assert row(text, '<- moco', PARENT, 'finished', 'steps 600')
    assert row(text, '<- ?', FIRST, 'not in this store')
    assert row(text, 'metrics.loss', '1.25') and row(text, 'task', 'moco')
    assert row(text, 'encoder', told['parts']['encoder']['sha256'])
    assert row(text, 'projector', '1', '8', '32') and row(text, 'total', '3', '48', '184')
    assert row(text, 'encoder/params/conv1/kernel', '[3, 3, 1, 4]', 'float32', '144')
    assert 'Checkpoints' not in text


def test_checkpoints_that_were_kept(directory):
    directory.finish(parts(), {}, keep='all')
    assert 'Checkpoints were kept: steps 4, 8' in inspection.describe(directory.finished)
    text = inspection.describe(directory.finished / 'checkpoints')
    assert text.startswith(f'Checkpoint {directory.finished / "checkpoints" / "8"}\n')


def test_a_copy_of_a_bundle(directory, tmp_path):
    directory.finish(parts(), {'key': KEY, 'steps': 8})
    shutil.copytree(directory.finished, tmp_path / 'weights')
    assert row(inspection.describe(tmp_path / 'weights'), 'weights', KEY, 'finished', 'steps 8')


def test_every_folder_of_a_stage_will_do(directory, tmp_path):
    """Finished or not, its checkpoints, a step of it, and a run's workdir beside the store."""
    steps = directory.partial / 'checkpoints'
    (steps / '6.orbax-checkpoint-tmp' / 'arrays').mkdir(parents=True)
    shutil.copytree(steps / '8', steps / '9.broken')
    workdir = tmp_path / 'runs' / 'mine'
    workdir.mkdir(parents=True)
    write_json(workdir / inspection.RUN_FILE, {'last_stage': KEY})
    expected = inspection.describe(directory.partial)
    assert f'Checkpoint {steps / "8"}\n' in expected
    for folder in (steps, steps / '8', workdir):
        assert inspection.describe(folder) == expected
    assert f'Checkpoint {steps / "4"}\nStep 4, ' in inspection.describe(steps / '4')
    assert f'Checkpoint {steps / "9.broken"}\nStep 8, ' in inspection.describe(steps / '9.broken')
    directory.finish(parts(), {})
    assert inspection.describe(workdir) == inspection.describe(directory.finished)


def test_no_device_is_touched(directory, tmp_path):
    """A platform that does not exist is no obstacle."""
    finish_parent(directory.store, 'moco', PARENT, None)
    folders = [directory.partial, directory.store / f'moco-{PARENT}', tmp_path]
    script = (
        'import sys; from cxr_jax.store.inspection import main; '
        'print([main(["inspect", folder]) for folder in sys.argv[1:]])'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, *folders], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'nosuchplatform'},
    )  # fmt: skip
    texts = [inspection.describe(folder) for folder in folders[:2]]
    assert done.stdout == '\n'.join([*texts, '[0, 0, 2]\n']), done.stderr
    assert done.stderr.startswith(f'{tmp_path} holds neither')
    assert len(done.stderr.splitlines()) == 1


def test_mistakes_and_damage(directory, tmp_path, capsys):
    assert inspection.main(['show', str(tmp_path)]) == 2
    assert 'python -m cxr_jax.checkpoint inspect DIR' in capsys.readouterr().err
    assert inspection.main([]) == 2

    write_json(tmp_path / inspection.RUN_FILE, {'last_stage': 'd' * 16})
    with pytest.raises(UserError, match='d{16}.*not reached yet, or --config.store'):
        inspection.describe(tmp_path)
    (tmp_path / inspection.RUN_FILE).write_text('[]')
    with pytest.raises(UserError, match='run.json is damaged'):
        inspection.describe(tmp_path)

    (directory.partial / 'checkpoints' / '8' / ABOUT / ABOUT_FILE).write_text('{"form')
    with pytest.raises(UserError, match='arrays.json is damaged'):
        inspection.describe(directory.partial)
    directory.finish(parts(), {})
    (directory.finished / 'projector.safetensors').unlink()
    with pytest.raises(UserError, match='projector.safetensors is missing'):
        inspection.describe(directory.finished)


def test_a_bundle_of_another_version_is_told(directory):
    directory.finish(parts(), {})
    path = directory.finished / 'bundle.json'
    path.write_text(path.read_text().replace('"format": 1', '"format": 3'))
    with pytest.raises(UserError, match='format 3'):
        inspection.describe(directory.finished)


def test_sizes_are_those_on_disk(directory):
    """Against the files themselves: 8 bytes and a header before the arrays."""
    directory.finish(parts(), {})
    path = directory.finished / 'encoder.safetensors'
    header = int(np.frombuffer(path.read_bytes()[:8], np.uint64)[0])
    nbytes = path.stat().st_size - 8 - header
    assert row(inspection.describe(directory.finished), 'encoder', '2', '40', f'{nbytes:,}')
