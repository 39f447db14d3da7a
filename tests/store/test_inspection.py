"""What `inspect` prints is what was saved: names, shapes, dtypes, step, hash and stage chain."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cxr_jax.run.workdir import RUN_FILE
from cxr_jax.runtime import parallel
from cxr_jax.store import inspection, trees
from cxr_jax.store.files import write_json
from cxr_jax.store.stages import MANIFEST, SESSIONS
from cxr_jax.train.loop import build_program
from data_pipelines.errors import UserError
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]


def abstract_state(each, data):
    """The TrainState that the stage trains, as a dict of jax.ShapeDtypeStructs."""
    backbone, fresh = tiny.network_of(data)
    return trees.as_dict(build_program(each, backbone, fresh, tiny.one_device()).like)


@pytest.mark.parametrize('name', ['moco', 'swav'])
def test_the_tree_is_the_train_state(name, tiny_data, undisturbed):
    """MoCo has a queue and a teacher, SwAV's optimiser and queue are others."""
    each, _, directory = undisturbed(name)
    found = inspection.read_tree(inspection.find_step(directory.finished))
    expected = abstract_state(each, tiny_data)
    assert {k: (x.shape, x.dtype) for k, x in found.items()} == trees.leaf_table(expected)
    leaves = jax.tree.leaves(expected)
    assert sum(x.nbytes for x in found.values()) == sum(
        int(np.prod(x.shape)) * x.dtype.itemsize for x in leaves
    )


def test_shapes_are_those_of_the_whole_arrays(tmp_path):
    """Also of arrays that lie in parts on several devices, and of bfloat16; no empty nodes."""
    mesh = parallel.data_mesh()
    assert mesh.size == 8
    tree = {
        'queue': jax.device_put(
            jnp.ones((16, 3), jnp.bfloat16), NamedSharding(mesh, PartitionSpec(parallel.AXIS))
        ),
        'nothing': {},
        'step': jnp.zeros((), jnp.int32),
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / '7' / 'default', tree)
    found = inspection.read_tree(tmp_path / '7')
    assert {k: (x.shape, x.dtype, x.nbytes) for k, x in found.items()} == {
        'queue': ((16, 3), 'bfloat16', 96),
        'step': ((), 'int32', 4),
    }


def test_what_is_printed(undisturbed, tiny_data):
    each, outcome, directory = undisturbed('moco')
    text = inspection.describe(directory.finished)
    saved = json.loads(
        (directory.finished / 'checkpoints' / '8' / '_CHECKPOINT_METADATA').read_text()
    )
    assert f'SHA-256 of the arrays: {saved["custom_metadata"]["sha256"]}' in text
    assert re.search(r'^Step 8, written 20\d\d-.*; other steps there: 4$', text, re.M)
    rate = f'rate {outcome.manifest["learning_rate"]:g}'
    assert re.search(rf'^moco +{each.key} +{rate} +8 steps of 8 images, finished$', text, re.M)

    expected = abstract_state(each, tiny_data)
    for part, tree in {
        'total': expected,
        **expected,
        '  teacher': expected['extra']['teacher'],
    }.items():
        leaves = jax.tree.leaves(tree)
        sizes = [int(np.prod(x.shape)) for x in leaves]
        nbytes = sum(n * x.dtype.itemsize for n, x in zip(sizes, leaves, strict=True))
        row = rf'^{part} +{len(leaves)} +{sum(sizes):,} +{nbytes:,}$'
        assert re.search(row, text, re.M), row
    assert re.search(r'^extra/queue +\[16, 16\] +float32 +1,024$', text, re.M)


def test_every_folder_of_a_stage_will_do(undisturbed, tmp_path):
    """Finished or not, its checkpoints, a step of it, and a run's workdir beside the store."""
    each, _, directory = undisturbed('rot')
    steps = directory.finished / 'checkpoints'
    newest = steps.resolve() / '8'
    assert inspection.find_step(directory.finished) == newest
    assert inspection.find_step(steps) == newest
    assert inspection.find_step(steps / '4') == newest.with_name('4')

    partial = tmp_path / 'stages' / f'{directory.finished.name}.partial'
    shutil.copytree(directory.finished, partial)
    (partial / MANIFEST).unlink()
    shutil.rmtree(partial / 'checkpoints' / '8')
    # What a killed process leaves, and what a resumed one sets aside.
    (partial / 'checkpoints' / '6.orbax-checkpoint-tmp' / 'default').mkdir(parents=True)
    shutil.copytree(partial / 'checkpoints' / '4', partial / 'checkpoints' / '5.broken')
    assert inspection.find_step(partial).name == '4'
    assert f'rot  {each.key}    unfinished, at step 4' in inspection.describe(partial)
    write_json(partial / SESSIONS, {'parent_key': '0123456789abcdef', 'sessions': []})
    assert '<- ?  0123456789abcdef    not in this store' in inspection.describe(partial)

    workdir = tmp_path / 'runs' / 'mine'
    workdir.mkdir(parents=True)
    write_json(workdir / RUN_FILE, {'last_stage': each.key})
    assert inspection.find_step(workdir) == (partial / 'checkpoints' / '4').resolve()


def test_the_chain_goes_back_to_the_first_stage(undisturbed, tmp_path):
    each, _, directory = undisturbed('rot')
    last = tmp_path / directory.finished.name
    shutil.copytree(directory.finished, last)
    facts = {'batch_size': 4, 'learning_rate': 0.125}
    keys = ['a' * 16, 'b' * 16, 'c' * 16]

    def write(folder, steps, parent):
        folder.mkdir(exist_ok=True)
        write_json(folder / MANIFEST, {'steps': steps, 'parent_key': parent} | facts)

    write(last, 8, keys[0])
    write(tmp_path / f'swav-{keys[0]}', 70, keys[1])
    write(tmp_path / f'moco-{keys[1]}', 600, None)
    write(tmp_path / f'relloc-{keys[2]}', 5000, None)  # of another curriculum
    chain = inspection.stage_chain(last)
    names = [(task, key, manifest['steps']) for task, key, manifest in chain]
    assert names == [('rot', each.key, 8), ('swav', keys[0], 70), ('moco', keys[1], 600)]
    text = inspection.describe(last)
    lines = text[text.index('Stages') :].splitlines()[1:5]
    assert [line.split()[:2] for line in lines[1:3]] == [['<-', 'swav'], ['<-', 'moco']]
    assert '600 steps of 4 images' in lines[2] and 'rate 0.125' in lines[2] and not lines[3]

    shutil.rmtree(tmp_path / f'moco-{keys[1]}')
    assert re.search(rf'^<- \? +{keys[1]} +not in this store$', inspection.describe(last), re.M)


def test_no_device_is_touched(undisturbed, tmp_path):
    """A platform that does not exist is no obstacle."""
    _, _, directory = undisturbed('rot')
    script = (
        'import sys; from cxr_jax.store import inspection; '
        'sys.exit(inspection.main(sys.argv[1:]))'
    )

    def run(*words):
        return subprocess.run(
            [sys.executable, '-c', script, *map(str, words)], cwd=ROOT, capture_output=True,
            text=True, env=os.environ | {'JAX_PLATFORMS': 'nosuchplatform'},
        )  # fmt: skip

    done = run('inspect', directory.finished)
    assert done.returncode == 0, done.stderr
    assert done.stdout == inspection.describe(directory.finished) + '\n'
    wrong = run('inspect', tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, '')
    assert wrong.stderr.startswith(f'{tmp_path} holds no checkpoint')
    assert len(wrong.stderr.splitlines()) == 1


def test_mistakes(undisturbed, tmp_path, capsys):
    assert inspection.main(['show', str(tmp_path)]) == 2
    assert 'python -m cxr_jax.checkpoint inspect DIR' in capsys.readouterr().err
    assert inspection.main([]) == 2

    write_json(tmp_path / RUN_FILE, {'last_stage': 'd' * 16})
    with pytest.raises(UserError, match='d{16}.*not reached yet, or --config.store'):
        inspection.find_step(tmp_path)

    _, _, directory = undisturbed('rot')
    step = tmp_path / '8'
    shutil.copytree(directory.finished / 'checkpoints' / '8', step)
    shutil.rmtree(step / 'default' / 'd')
    with pytest.raises(UserError, match='8 is damaged'):
        inspection.describe(step)
    (step / 'default' / '_METADATA').write_text('{"tree_')
    with pytest.raises(UserError, match='_METADATA cannot be read'):
        inspection.describe(step)
