"""The bench `step`: the whole train step against XLA's own operations, or against PyTorch's."""

import time
from collections.abc import Callable
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.curriculum import stage_config
from cxr_jax.models import conv, resnet
from cxr_jax.models.encoder import Backbone
from cxr_jax.models.heads import global_average_pool
from cxr_jax.runtime import allocator, parallel
from cxr_jax.tasks import TASKS
from cxr_jax.train import optim
from cxr_jax.train import state as states
from cxr_jax.train.step import make_train_step
from scripts.benches.measure import report, take_turns, timed

CLASSES, RATE = 4, 0.1
MEAN, STD = 0.5, 0.25
AGAINST_TORCH = ((18, 64, 64), (50, 64, 32), (18, 224, 16), (50, 224, 8))  # depth, pixels, batch
PEAK_SIZE = 2048  # of the square matrices whose product is the peak
NO_TORCH = (
    'step --against torch needs PyTorch, which nothing else here does: '
    "pip install -e '.[torch]' -c constraints.txt (its build for CPU is enough)."
)


class OurStep:
    """The classifier's step: views, forward, backward, update. Compiled when made; call it."""

    def __init__(self, depth: int, size: int, batch: int):
        self.mesh, self.batch = parallel.data_mesh(), batch
        self.backbone = Backbone(
            resnet.ResNet(depth, 64, axis_name=parallel.AXIS), mean=MEAN, std=STD
        )
        self.task = TASKS['classify'](image_size=size, classes=CLASSES)
        config = stage_config('classify').optimizer
        transform, factor = optim.optimizer(config), optim.rate_factor(config, 100, 10)
        step = make_train_step(
            self.task, self.backbone, transform, factor, self.mesh, 'full', gray=MEAN
        )
        params, stats = jax.jit(lambda: self.backbone.init(jax.random.key(0), size))()
        state = states.create(
            self.task, self.backbone, transform, params, stats, jax.random.key(1), RATE
        )
        rng = np.random.default_rng(0)
        self.rows = parallel.put_rows(self.mesh, {
            'image': rng.integers(0, 256, (batch, size, size, 1), np.uint8),
            'label': rng.integers(0, CLASSES, batch).astype(np.int32),
        })  # fmt: skip
        self.state = parallel.replicate(self.mesh, state)
        start = time.perf_counter()
        self.step = step.lower(self.state, self.rows).compile()
        self.compile_seconds = time.perf_counter() - start

    def logits(self, images) -> np.ndarray:
        """Of normalised images [B, H, W, 1], in training mode."""

        def forward(params, stats):
            variables = {'params': params['backbone'], 'batch_stats': stats['backbone']}
            network = self.backbone.network.clone(axis_name=None)
            features, _ = network.apply(variables, images, train=True, mutable=['batch_stats'])
            return global_average_pool(features) @ params['head']['linear']['kernel']

        return np.asarray(jax.jit(forward)(self.state.params, self.state.batch_stats))

    def __call__(self) -> int:
        self.state, metrics = self.step(self.state, self.rows)
        jax.block_until_ready(metrics)
        return self.batch


def bench_step(rounds: int, against: str = 'xla') -> None:
    """The whole train step on CPU against XLA's convolutions, or PyTorch's channels-last step."""
    allocator.keep_freed_memory()
    if against == 'xla':
        against_xla(rounds)
    else:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise SystemExit(NO_TORCH) from None
        for depth, size, batch in AGAINST_TORCH:
            against_torch(rounds, depth, size, batch)


def against_xla(rounds: int) -> None:
    """ResNet-18, batch 64 at 64 px."""

    def plain_pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    with (
        mock.patch.object(conv, 'conv2d', conv.xla_convolution),
        mock.patch.object(resnet, 'max_pool', plain_pool),
    ):
        steps = {'XLA convolutions': OurStep(18, 64, 64)}
    steps['cxr_jax'] = OurStep(18, 64, 64)
    take_turns(steps, 1)
    report('step', take_turns(steps, rounds), 'XLA convolutions', network='ResNet-18', size=64,
           batch=64, device=jax.devices()[0].device_kind)  # fmt: skip


def against_torch(rounds: int, depth: int, size: int, batch: int) -> None:
    """One network at one size; PyTorch's step has its images ready, ours also makes its views.

    `gflop_per_s` counts the products of direct convolutions, forward and backward, on either side;
    ours needs fewer. `share_of_peak`: of the faster side's product of two large matrices.
    """
    import torch

    from scripts.benches import torch_resnet

    ours = OurStep(depth, size, batch)
    theirs = torch_resnet.Step(
        depth, CLASSES, batch, size, stage_config('classify').optimizer, RATE
    )
    torch_resnet.load_ours(theirs.model, ours.state.params, ours.state.batch_stats)
    expected = theirs.logits()
    difference = np.abs(ours.logits(theirs.rows) - expected).max() / np.abs(expected).max()
    if difference > 1e-4:
        raise SystemExit(f'The two networks differ: {difference:.1e} of the largest logit.')
    steps = {'PyTorch': theirs, 'cxr_jax': ours}
    take_turns(steps, 2)
    gflop = torch_resnet.step_gflop(theirs.model, theirs.images)
    peak = max(peak_gflop_per_s().values())
    rates = take_turns(steps, rounds)
    speeds = {name: np.median(own) / batch * gflop for name, own in rates.items()}
    report('step', rates, 'PyTorch', network=f'ResNet-{depth}', size=size, batch=batch,
           torch=torch.__version__, threads=torch.get_num_threads(),
           logits_differ_by=float(f'{difference:.1e}'), compile_s=round(ours.compile_seconds, 1),
           gflop_per_s={name: round(speed) for name, speed in speeds.items()},
           share_of_peak={name: round(speed / peak, 2) for name, speed in speeds.items()},
           peak_gflop_per_s=round(peak))  # fmt: skip


def peak_gflop_per_s() -> dict[str, float]:
    """The best of five products of two square matrices, on either side."""
    import torch

    shape = (PEAK_SIZE, PEAK_SIZE)
    ours, theirs = jnp.ones(shape), torch.ones(shape)
    product = jax.jit(jnp.matmul)
    runs: dict[str, Callable[[], object]] = {
        'PyTorch': lambda: theirs @ theirs,
        'cxr_jax': lambda: jax.block_until_ready(product(ours, ours)),
    }
    gflop = 2e-9 * PEAK_SIZE**3
    return {
        name: max(timed(lambda run=run: run() is not None) for _ in range(5)) * gflop
        for name, run in runs.items()
    }
