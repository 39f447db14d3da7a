"""The bench `views`: the share of every task's views in its train step."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable

import jax
import numpy as np

from configs.curriculum import get_config, stage_config
from cxr_jax.models.encoder import build_backbone, feature_width, network_name
from cxr_jax.runtime import parallel
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.base import Facts, Task
from cxr_jax.train import optim
from cxr_jax.train import state as states
from cxr_jax.train.step import make_train_step, make_views
from scripts.benches.measure import say, take_turns

REPEATS = 5  # calls of the views per round: they are short
IMAGES = 100_000  # of the data set that there might be: no queue is cut short


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of a network, its input and the stored images (pixels)."""

    depth: int
    width: int
    size: int
    stored: int
    batch: int


ON_CPU = Scale(depth=18, width=64, size=64, stored=80, batch=64)
ON_ACCELERATOR = Scale(depth=50, width=64, size=224, stored=256, batch=128)
# The other sizes of a task's reference settings, in proportion to the network's input.
OTHER_SIZES = {'relloc': {'image_size': 255}, 'swav': {'small_size': 96}}


def reference_task(name: str, scale: Scale, devices: int) -> tuple[Task, Facts]:
    """The task with its reference settings, its sizes scaled to that of the input."""
    facts = Facts(
        images=IMAGES,
        batch_size=scale.batch,
        steps_per_epoch=IMAGES // scale.batch,
        devices=devices,
        feature_width=feature_width(scale.depth, scale.width),
        classes=('one', 'two', 'three', 'four'),
    )
    sizes = {'image_size': scale.size}
    sizes |= {k: round(v * scale.size / 224) for k, v in OTHER_SIZES.get(name, {}).items()}
    task, _ = dataclasses.replace(TASKS[name](), **sizes).resolve(facts)
    return task, facts


def batch_of_noise(mesh, scale: Scale) -> dict:
    """What the loader would give, on the devices."""
    rng = np.random.default_rng(0)
    shape = (scale.batch, scale.stored, scale.stored, 1)
    return parallel.put_rows(mesh, {
        'image': rng.integers(0, 256, shape, np.uint8),
        'label': rng.integers(0, 4, scale.batch).astype(np.int32),
    })  # fmt: skip


def compiled_step(name: str, scale: Scale, mesh, trials: int = 0):
    """(step, state before the first one) of a task, to be compiled by the first call.

    With `trials` the step is that of so many learning rates together, the state theirs.
    """
    task, facts = reference_task(name, scale, mesh.size)
    settings = get_config('scratch').backbone.copy_and_resolve_references()
    settings.update(depth=scale.depth, width=scale.width)
    backbone = build_backbone(settings, mean=0.5, std=0.25)
    config = stage_config(name).optimizer
    transform = optim.optimizer(config, task.frozen(facts))
    factor = optim.rate_factor(config, IMAGES, facts.steps_per_epoch)

    def create():
        params, stats = backbone.init(jax.random.key(0), scale.size)
        return states.create(task, backbone, transform, params, stats, jax.random.key(1), 0.01)

    parts = task, backbone, transform, factor, mesh, 'full', 0.5
    step, state = make_train_step(*parts, bool(trials)), jax.jit(create)()
    state = states.stack([state] * trials) if trials else state
    return step, parallel.replicate(mesh, jax.device_get(state))


def train_step_run(name: str, scale: Scale, mesh) -> Callable[[], int]:
    """The compiled step of a task on a batch of noise, ready to be run once more."""
    step, state = compiled_step(name, scale, mesh)
    current, batch = [state], batch_of_noise(mesh, scale)

    def run() -> int:
        current[0], metrics = step(current[0], batch)
        jax.block_until_ready(metrics)
        return scale.batch

    run()
    return run


def views_run(name: str, scale: Scale, mesh) -> Callable[[], int]:
    """The compiled views of a task alone, ready to be made again."""
    task, _ = reference_task(name, scale, mesh.size)
    make = parallel.sharded(
        lambda key, batch: make_views(task, key, batch, 'full', 0.5), mesh, (False, True), True
    )
    batch, key = batch_of_noise(mesh, scale), jax.random.key(2)

    def run() -> int:
        for _ in range(REPEATS):
            jax.block_until_ready(make(key, batch))
        return REPEATS * scale.batch

    run()
    return run


def bench_views(rounds: int, tasks: Iterable[str] = tuple(TASKS)) -> None:
    """One line per task: time of its views over the time of its step, which contains them."""
    scale = ON_CPU if jax.default_backend() == 'cpu' else ON_ACCELERATOR
    mesh = parallel.data_mesh()
    for name in tasks:
        runs = {'views': views_run(name, scale, mesh), 'step': train_step_run(name, scale, mesh)}
        rates = take_turns(runs, rounds)
        seconds = {what: [scale.batch / rate for rate in own] for what, own in rates.items()}
        shares = [a / b for a, b in zip(seconds['views'], seconds['step'], strict=True)]
        line = {
            'bench': 'views', 'task': name, 'share': round(statistics.median(shares), 4),
            'least': round(min(shares), 4), 'most': round(max(shares), 4),
            'views_ms': round(1e3 * statistics.median(seconds['views']), 2),
            'step_ms': round(1e3 * statistics.median(seconds['step']), 1), 'rounds': rounds,
            'network': network_name(scale.depth), **dataclasses.asdict(scale),
            'device': jax.devices()[0].device_kind,
        }  # fmt: skip
        say(**line)
