"""The bench `step`: the train step's CPU lowering against XLA's own operations."""

from collections.abc import Callable
from unittest import mock

import flax.linen as nn
import jax
import numpy as np

from configs.curriculum import stage_config
from cxr_jax import optim, parallel
from cxr_jax import state as states
from cxr_jax.models import conv, resnet
from cxr_jax.models.backbone import Backbone
from cxr_jax.tasks import TASKS
from cxr_jax.train_step import make_train_step
from scripts.benches.measure import report, take_turns


def train_step_runs(size: int, batch: int) -> Callable[[], int]:
    """A compiled classifier step of ResNet-18 at full width, ready to be run once more."""
    mesh = parallel.data_mesh()
    network = resnet.ResNet(18, 64, axis_name=parallel.AXIS)
    backbone = Backbone(network, mean=0.5, std=0.25)
    task = TASKS['classify'](image_size=size, classes=4)
    config = stage_config('classify').optimizer
    transform, factor = optim.optimizer(config), optim.rate_factor(config, 100, 10)
    step = make_train_step(task, backbone, transform, factor, mesh, 'full', gray=0.5)
    params, stats = backbone.init(jax.random.key(0), size)
    state = states.create(task, backbone, transform, params, stats, jax.random.key(1), 0.1)
    rng = np.random.default_rng(0)
    rows = parallel.put_rows(mesh, {
        'image': rng.integers(0, 256, (batch, size, size, 1), np.uint8),
        'label': rng.integers(0, 4, batch).astype(np.int32),
    })  # fmt: skip
    current = [parallel.replicate(mesh, state)]

    def run() -> int:
        current[0], metrics = step(current[0], rows)
        jax.block_until_ready(metrics)
        return batch

    run()
    return run


def bench_step(rounds: int) -> None:
    """The whole step: views, forward, backward, update; batch 64 at 64 px."""

    def plain_pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    with (
        mock.patch.object(conv, 'conv2d', conv.xla_convolution),
        mock.patch.object(resnet, 'max_pool', plain_pool),
    ):
        runs = {'XLA convolutions': train_step_runs(64, 64)}
    runs['cxr_jax'] = train_step_runs(64, 64)
    report('step', take_turns(runs, rounds), 'XLA convolutions', network='ResNet-18', size=64,
           batch=64, device=jax.devices()[0].device_kind)  # fmt: skip
