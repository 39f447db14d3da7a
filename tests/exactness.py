"""Whole stages in float64 on any mesh: what must not depend on the number of devices.

In float64, because training multiplies rounding differences (MoCo's by about 100 a step at first):
in float32 a wrong reduction and a rounding would look alike.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models import resnet
from cxr_jax.models.encoder import Contract, Encoder, EncoderSettings
from cxr_jax.runtime import hosts, parallel
from cxr_jax.store import trees
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.train import loop
from cxr_jax.train.program import Training
from tests import tiny
from tests.small_network import NAME, SmallNetwork

DEVICES = 4
RESNET, DISTILLED = 'rot, a residual network', 'rot, distilled'
# Every task, and the other ways in which some treat batch statistics. The embedded phantoms have
# no findings: see tests/parity/test_findings.py.
CASES = {
    **{name: {} for name in TASKS},
    **{name: {} for name, task in READOUTS.items() if task.exclusive is not False and task.trains},
    'moco, global batch norm': {'task.key_groups': 1},
    'swav': {'task.small_crops': 2, 'task.small_size': 24},
    # Seven images a cluster, and some fall below five.
    'odc': {'task.clusters': '5', 'task.min_cluster': '5', 'task.centroid_steps': 3},
    # In the second epoch two of the four classes are in.
    'classify, with everything': {
        'task.class_weights': 'effective', 'task.focal': 2.0, 'task.smoothing': 0.1,
        'task.classwise.order': 'self',
    },
    RESNET: {},
    DISTILLED: {'distil': 'cassle'},
}  # fmt: skip
# ResNet's stem, pooling, one block of stride 1 and one of stride 2.
DEPTH = 6
resnet.STAGE_SIZES[DEPTH], resnet.EXPANSION[DEPTH] = (1, 1), 1


def stage_of(data, case: str, devices: int = DEVICES):
    """The stage of a case, at a rate at which rounding stays small."""
    name = case.partition(',')[0]
    changes = {'optimizer.lr': 0.01} | CASES.get(case, {})
    changes = {f'stage.{name}.{field}': value for field, value in changes.items()}
    tasks, readout = ('scratch', name) if name in READOUTS else (name, 'none')
    tasks = f'relloc_{name}' if case == DISTILLED else tasks
    stage = tiny.make_plan(data, tasks, readout, devices, **changes).stages[-1]
    return in_float64(stage, resnet.ResNet(DEPTH, 8, jnp.float64) if case == RESNET else None)


def in_float64(stage, network=None):
    """The stage with an encoder in float64; its network, or the tests' own."""
    return dataclasses.replace(stage, encoder=make_encoder(stage.encoder.contract, network))


def make_encoder(contract: Contract, network=None) -> Encoder:
    """Encoder in float64; its network, or the tests' own."""
    network = network or SmallNetwork(dtype=jnp.float64)
    network = network.clone(axis_name=parallel.AXIS)
    return Encoder(EncoderSettings(NAME, network.width), network, contract)


def widened(x):
    return x.astype(jnp.float64) if x.dtype == jnp.float32 else x


def train(stage, mesh, folder: pathlib.Path, parent: dict | None = None) -> dict[str, np.ndarray]:
    """Every leaf of the state after the whole stage, its metrics and what monitors see of its last
    step, by name; `folder` is new.

    From fresh weights, or the parts that a stage has left.
    """
    with jax.enable_x64(True):
        parent = parent or fresh_parts(stage)
        # Other parts are compared with fresh ones, which are wide only after `create`.
        parent = parent | {'encoder': jax.tree.map(widened, parent['encoder'])}
        narrow = tiny.build_once(stage, parent, mesh)

        def create(parts, lr):
            return jax.tree.map(widened, narrow.create(parts, lr))

        seen = {}

        def step(state, batch):
            *rest, seen['last'] = narrow.step(state, batch)
            return *rest, seen['last']

        like = jax.eval_shape(functools.partial(create, narrow.parent, 0.0))
        program = dataclasses.replace(narrow, create=create, like=like, step=step)
        folder.mkdir(parents=True, exist_ok=True)
        training = Training([stage], program, [folder])
        state, (log,) = loop.train(training, stage.total_steps)
        clock = ('seconds', 'session')
        rows = log.rows if hosts.is_first() else []
        metrics = [{k: v for k, v in row.items() if k not in clock} for row in rows]
        state = parallel.replicate(mesh, state)
        # Rows of several processes are in none of them.
        seen = seen if jax.process_count() == 1 else {}
        return leaves_of({'state': trees.as_dict(state), 'metrics': metrics, 'seen': seen})


def fresh_parts(stage) -> dict:
    params, stats = stage.encoder.init(jax.random.key(0), stage.task.smallest_input)
    return {'encoder': {'params': params, 'batch_stats': stats}}


def leaves_of(tree) -> dict[str, np.ndarray]:
    """Every leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_equal(found: dict, expected: dict) -> None:
    """Equal but for the order of sums in float64, gradients (norm, momentum) included."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-8, atol=1e-8, err_msg=name)
