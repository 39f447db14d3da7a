"""The bench `step`: the whole train step against XLA's own operations, or against PyTorch's."""

import time
from collections.abc import Callable
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models import conv, resnet
from cxr_jax.runtime import allocator, parallel
from scripts.benches.case import NAMES, RATE, Case, Scale
from scripts.benches.measure import report, take_turns, timed

AGAINST_TORCH = ((18, 64, 64), (50, 64, 32), (18, 224, 16), (50, 224, 8))  # depth, pixels, batch
PEAK_SIZE = 2048  # of the square matrices whose product is the peak
NO_TORCH = (
    'step --against torch needs PyTorch, which nothing else here does: '
    "pip install -e '.[torch]' -c constraints.txt (its build for CPU is enough)."
)


class OurStep:
    """The classifier's step: views, forward, backward, update. Compiled when made; call it."""

    def __init__(self, encoder: str, size: int, batch: int):
        self.batch = batch
        self.case = Case('classify', Scale(encoder, 64, size, size, batch), parallel.data_mesh())
        (step, self.state), self.rows = self.case.step(), self.case.noise()
        start = time.perf_counter()
        self.step = step.lower(self.state, self.rows).compile()
        self.compile_seconds = time.perf_counter() - start

    def logits(self, images) -> np.ndarray:
        """Of normalised images [B, H, W, 1], in training mode."""

        def forward(params, stats):
            variables = {'params': params['encoder'], 'batch_stats': stats['encoder']}
            network = self.case.encoder.network.clone(axis_name=None)
            maps, _ = network.apply(variables, images, train=True, mutable=['batch_stats'])
            pooled = list(maps.values())[-1].mean((1, 2))
            return pooled @ params['head']['linear']['kernel']

        return np.asarray(jax.jit(forward)(self.state.params, self.state.batch_stats))

    def __call__(self) -> int:
        self.state, metrics, _ = self.step(self.state, self.rows)
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
        steps = {'XLA convolutions': OurStep('resnet18', 64, 64)}
    steps['cxr_jax'] = OurStep('resnet18', 64, 64)
    take_turns(steps, 1)
    report('step', take_turns(steps, rounds), 'XLA convolutions', network='resnet18', size=64,
           batch=64, device=jax.devices()[0].device_kind)  # fmt: skip


def against_torch(rounds: int, depth: int, size: int, batch: int) -> None:
    """One network at one size; PyTorch's step has its images ready, ours also makes its views.

    `gflop_per_s` counts the products of direct convolutions, forward and backward, on either side;
    ours needs fewer. `share_of_peak`: of the faster side's product of two large matrices.
    """
    import torch

    from scripts.benches import torch_resnet

    ours = OurStep(f'resnet{depth}', size, batch)
    theirs = torch_resnet.Step(depth, len(NAMES), batch, size, ours.case.optimizer, RATE)
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
    report('step', rates, 'PyTorch', network=f'resnet{depth}', size=size, batch=batch,
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
