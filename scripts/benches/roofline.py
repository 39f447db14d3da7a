"""The bench `roofline`: where the time of a CPU train step goes, at least."""

import collections
import re
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.runtime import allocator
from scripts.benches.measure import say, timed
from scripts.benches.step import OurStep

SIZES = ('resnet50', 224, 8)  # network, pixels, batch
PEAK_SIZE = 2048  # of the square matrices whose product is the peak
COPIED = 2**26  # numbers whose copy is the bandwidth of the memory
SHAPE = re.compile(r'%(\S+) = f32\[(\d+),(\d+)\]')
DOT = re.compile(r' dot\(%(\S+), %(\S+)\), lhs_contr\S+=\{(\d)\}, rhs_contr\S+=\{(\d)\}')
# By the axes that are summed over, as autodiff leaves them for x @ kernel.
KINDS = {
    (1, 0): 'forward',
    (1, 1): 'gradient of the input',
    (0, 0): 'gradient of the kernel',
}


def bench_roofline(rounds: int) -> None:
    """The step's matrix products one by one, and its memory traffic, against the whole step."""
    allocator.keep_freed_memory()
    network, size, batch = SIZES
    step = OurStep(network, size, batch)
    step()
    step_s = statistics.median(batch / timed(step) for _ in range(rounds))
    found, products_s, gflop_of_all = products(step.step.as_text()), 0.0, 0.0
    for kind, name in KINDS.items():
        own = {each: n for each, n in found.items() if each[0] == kind}
        seconds = sum(n * time_of(*each, rounds) for each, n in own.items())
        gflop = sum(n * gflop_of(*each) for each, n in own.items())
        products_s, gflop_of_all = products_s + seconds, gflop_of_all + gflop
        say(bench='roofline', what=f'products, {name}', number=sum(own.values()),
            gflop=round(gflop, 1), ms=round(1e3 * seconds),
            gflop_per_s=round(gflop / seconds))  # fmt: skip
    square = (1, 0), (PEAK_SIZE, PEAK_SIZE), (PEAK_SIZE, PEAK_SIZE)
    peak = gflop_of(*square) / time_of(*square, rounds)
    traffic = step.step.cost_analysis()['bytes accessed'] / 1e9
    say(bench='roofline', what='whole step', network=network, size=size, batch=batch,
        ms=round(1e3 * step_s), products_ms=round(1e3 * products_s),
        products_at_peak_ms=round(1e3 * gflop_of_all / peak),
        peak_gflop_per_s=round(peak), traffic_gb=round(traffic, 1),
        traffic_at_bandwidth_ms=round(1e3 * traffic / bandwidth(rounds)),
        rounds=rounds)  # fmt: skip


def products(text: str) -> collections.Counter:
    """{(summed axes, shape of the left, shape of the right): how often} of a compiled program."""
    shapes, found = {}, collections.Counter()
    for line in text.splitlines():
        if match := SHAPE.search(line):
            shapes[match[1]] = int(match[2]), int(match[3])
        if match := DOT.search(line):
            axes = int(match[3]), int(match[4])
            found[axes, shapes[match[1]], shapes[match[2]]] += 1
    return found


def gflop_of(axes, left, right) -> float:
    """Billions of additions and multiplications of a product."""
    return 2e-9 * np.prod(left) * np.prod(right) / left[axes[0]]


def time_of(axes, left, right, rounds: int) -> float:
    """Seconds of a product alone, again and again on the same matrices."""
    numbers = ((axes[0],), (axes[1],)), ((), ())
    product = jax.jit(lambda a, b: jax.lax.dot_general(a, b, numbers))
    return _seconds(lambda a, b: product(a, b), rounds, jnp.ones(left), jnp.ones(right))


def bandwidth(rounds: int) -> float:
    """GB/s of reading and writing a large array."""
    numbers = jnp.ones(COPIED)
    return 2 * numbers.nbytes / 1e9 / _seconds(jax.jit(lambda x: x + 1), rounds, numbers)


def _seconds(function, rounds: int, *arrays) -> float:
    def run() -> int:
        jax.block_until_ready(function(*arrays))
        return 1

    run()
    return statistics.median(1 / timed(run) for _ in range(rounds))
