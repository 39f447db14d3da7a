"""The benches `train` and `together`: training as a stage does it, and several trials at once."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from cxr_jax.models.encoder import compute_dtype
from cxr_jax.runtime import allocator, parallel
from cxr_jax.train import feed
from cxr_jax.train.loop import LOG_STEPS
from cxr_jax.train.stage import Labelled
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.sampler import Sampler
from data_pipelines.prepared.target import Target
from scripts.benches.case import NAMES, Case, usual_scale
from scripts.benches.measure import report, take_turns, timed
from scripts.benches.prepared_set import NAME, write_set

TASKS = ('moco', 'swav')
# Of a round. Some are made in the other sides' turns: few, against a hundred, and free against
# the long steps of a CPU.
BATCHES = LOG_STEPS if jax.default_backend() == 'cpu' else 10 * LOG_STEPS
RECORDS = 4096
TRIALS, TRIAL_BATCHES = 8, (8, 64)  # the reference study's least and largest
ALONE, STREAMED, RESIDENT = 'one batch again', 'streamed', 'on the devices'


def bench_train(rounds: int, tasks: Iterable[str] = TASKS) -> None:
    """Steps with their data, streamed or living on the devices, against steps on one batch.

    1 - `ratio` is the share of the time that is spent waiting for data. `flop_share`: operations
    of the compiled step, over the time, over those of a product of two large matrices.
    """
    allocator.keep_freed_memory()
    scale, mesh = usual_scale(), parallel.data_mesh()
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), RECORDS, scale.stored)
        corpus = open_prepared(folder, NAME, scale.stored).corpus('train')
        for task in tasks:
            case = Case(task, scale, mesh)
            (step, state), noise = case.step(), case.noise()
            step = step.lower(state, noise).compile()
            steps = Steps(step, state, scale.batch)
            target = Target(NAMES, getattr(case.task, 'exclusive', True))
            data, sampler = Labelled(corpus, target.values(corpus)), Sampler(corpus, scale.batch, 0)
            given = data, sampler, 0, mesh, feed.fields_of(case.encoder, case.task)
            runs = {
                ALONE: lambda steps=steps, noise=noise: steps.run(iter([noise] * BATCHES)),
                STREAMED: _fed(steps, feed.batches(*given, 0.0)),
                RESIDENT: _fed(steps, feed.batches(*given, 0.5)),
            }
            for run in runs.values():
                run()
            rates = take_turns(runs, rounds)
            flop = step.cost_analysis()['flops'] / (scale.batch / mesh.size)
            peak = _peak_flop_per_s() * mesh.size
            report('train', rates, ALONE, task=task, network=scale.encoder,
                   size=scale.size, batch=scale.batch, device=jax.devices()[0].device_kind,
                   flop_share={k: round(max(v) * flop / peak, 3) for k, v in rates.items()},
                   )  # fmt: skip


class Steps:
    """Compiled steps over batches; metrics are fetched as often as the trainer does."""

    def __init__(self, step, state, images: int):
        self._step, self._state, self._images = step, state, images

    def run(self, batches: Iterator[dict]) -> int:
        """Trains on the next BATCHES of `batches`; how many images that were."""
        for number in range(1, BATCHES + 1):
            self._state, metrics, _ = self._step(self._state, next(batches))
            if number % LOG_STEPS == 0:
                jax.device_get(metrics)
        return BATCHES * self._images


def _fed(steps: Steps, batches: Iterator[dict]) -> Callable[[], int]:
    return lambda: steps.run(batches)


def _peak_flop_per_s(size: int = 4096) -> float:
    matrix = jnp.ones((size, size), compute_dtype('auto'))
    product = jax.jit(jnp.matmul)
    run = lambda: jax.block_until_ready(product(matrix, matrix)) is not None  # noqa: E731
    run()
    return max(timed(run) for _ in range(5)) * 2.0 * size**3


def bench_together(rounds: int, task: str = 'rot') -> None:
    """Eight learning rates in one vmapped step against the same eight one after the other."""
    allocator.keep_freed_memory()
    mesh = parallel.data_mesh(jax.devices()[:1])
    for batch in TRIAL_BATCHES:
        scale = dataclasses.replace(usual_scale(), batch=batch)
        case = Case(task, scale, mesh)
        noise = case.noise()
        together = Steps(*case.step(TRIALS), TRIALS * batch)
        step, state = case.step()
        kept = jax.device_get(state)
        alone = [Steps(step, parallel.replicate(mesh, kept), batch) for _ in range(TRIALS)]
        runs = {
            'one by one': lambda alone=alone, noise=noise: sum(
                each.run(iter([noise] * BATCHES)) for each in alone
            ),
            'together': lambda all_=together, noise=noise: all_.run(iter([noise] * BATCHES)),
        }
        for run in runs.values():
            run()
        report('together', take_turns(runs, rounds), 'one by one', task=task, trials=TRIALS,
               batch=batch, network=scale.encoder, size=scale.size,
               device=jax.devices()[0].device_kind)  # fmt: skip
