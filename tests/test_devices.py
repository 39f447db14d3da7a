"""One device and eight give the same training: the whole TrainState, for every task.

Computed in float64: training multiplies rounding differences (MoCo's by about 100 a step at first),
so in float32 a wrong reduction and a rounding would look alike after four steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.curriculum import stage_config
from cxr_jax import parallel
from cxr_jax import state as states
from cxr_jax.models.backbone import Backbone
from cxr_jax.models.resnet import ResNet
from cxr_jax.optim import optimizer, rate_factor
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.base import Facts
from cxr_jax.train_step import make_train_step

BATCH, STEPS = 32, 4
FACTS = Facts(
    images=128,
    batch_size=BATCH,
    steps_per_epoch=1,
    devices=8,
    feature_width=64,
    classes=('negative', 'typical', 'other'),
)
SETTINGS = {
    'rot': {},
    'relloc': {'image_size': 60},
    'moco': {'queue_size': 64, 'hidden': 'auto', 'features': 16},
    # The queue (2 batches, from step 1) is full at step 3; the prototypes move from step 2 on.
    'swav': {
        'queue_size': 64, 'queue_start_epoch': 1.0, 'freeze_epochs': 2.0, 'prototypes': 6,
        'hidden': 'auto', 'features': 16, 'small_crops': 2, 'small_size': 48,
    },
    'classify': {},
}  # fmt: skip


def train(name: str, devices: int):
    """State and losses after STEPS steps of the task on `devices` fake devices."""
    mesh = parallel.data_mesh(jax.devices()[:devices])
    task = dataclasses.replace(TASKS[name](image_size=64), **SETTINGS[name])
    task, _ = task.resolve(FACTS)
    backbone = Backbone(ResNet(18, 8, jnp.float64, axis_name=parallel.AXIS), mean=0.5, std=0.25)
    config = stage_config(name).optimizer
    factor = rate_factor(config, STEPS, FACTS.steps_per_epoch)
    transform = optimizer(config, task.frozen(FACTS))
    step = make_train_step(task, backbone, transform, factor, mesh, 'full', gray=0.5)
    params, stats = backbone.init(jax.random.key(0), 64)
    state = states.create(task, backbone, transform, params, stats, jax.random.key(1), 0.01)
    state = parallel.replicate(mesh, jax.tree.map(widened, state))
    rng, losses = np.random.default_rng(0), []
    for _ in range(STEPS):
        batch = {
            'image': smooth_images(rng),
            'label': rng.integers(0, 3, BATCH).astype(np.int32),
        }
        state, metrics = step(state, parallel.put_rows(mesh, batch))
        losses.append(float(metrics['loss']))
    return jax.device_get(states.as_dict(state)), losses


def widened(x):
    return x.astype(jnp.float64) if x.dtype == jnp.float32 else x


def smooth_images(rng):
    """uint8 [BATCH, 72, 72, 1]: noise would be averaged away, and train chaotically."""
    coarse = rng.integers(0, 256, (BATCH, 9, 9, 1)).astype(np.float32)
    return np.asarray(jax.image.resize(coarse, (BATCH, 72, 72, 1), 'cubic').clip(0, 255), np.uint8)


@pytest.mark.parametrize('name', TASKS)
def test_eight_devices_equal_one(name):
    with jax.enable_x64(True):
        (one, losses), (eight, _) = train(name, 1), train(name, 8)
    assert len(set(losses)) == STEPS
    expected = dict(jax.tree_util.tree_leaves_with_path(one))
    for path, leaf in jax.tree_util.tree_leaves_with_path(eight):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-9, atol=1e-9, err_msg=where)
