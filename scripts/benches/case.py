"""What the benches train: a task with its own settings on a network and images of some size."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from cxr_jax.models.encoder import Contract, EncoderSettings, build_encoder
from cxr_jax.run.settings import read_stage, stage_config
from cxr_jax.runtime import parallel
from cxr_jax.tasks.base import Facts
from cxr_jax.train import optim
from cxr_jax.train import state as states
from cxr_jax.train.step import make_train_step, make_views

NAMES = ('one', 'two', 'three', 'four')  # of a readout's target
IMAGES = 100_000  # of the data set that there might be: no queue is cut short
RATE = 0.01
# The other sizes of a task's settings, in proportion to the network's input.
OTHER_SIZES = {'relloc': {'image_size': 255}, 'swav': {'small_size': 96}}


@dataclasses.dataclass(frozen=True)
class Scale:
    """A network, its input and the stored images (pixels)."""

    encoder: str
    width: int
    size: int
    stored: int
    batch: int


ON_CPU = Scale('resnet18', width=64, size=64, stored=80, batch=64)
ON_ACCELERATOR = Scale('resnet50', width=64, size=224, stored=256, batch=128)


def usual_scale() -> Scale:
    """What a step of moderate length needs here."""
    return ON_CPU if jax.default_backend() == 'cpu' else ON_ACCELERATOR


class Case:
    """One task at one scale on the devices of a mesh."""

    def __init__(self, name: str, scale: Scale, mesh):
        self.name, self.scale, self.mesh = name, scale, mesh
        contract = Contract(scale.stored, 8, 1, 'full', mean=0.5, std=0.25, fill=0.5)
        self.encoder = build_encoder(EncoderSettings(scale.encoder, scale.width), contract)
        self.facts = Facts(
            images=IMAGES, batch_size=scale.batch, steps_per_epoch=IMAGES // scale.batch,
            total_steps=IMAGES, devices=mesh.size, feature_width=self.encoder.feature_width,
            names=NAMES,
        )  # fmt: skip
        settings = read_stage(name, stage_config(name).to_dict())
        sizes = {'image_size': scale.size}
        sizes |= {k: round(v * scale.size / 224) for k, v in OTHER_SIZES.get(name, {}).items()}
        self.task, _ = dataclasses.replace(settings.task, **sizes).resolve(self.facts)
        self.optimizer = settings.optimizer

    def step(self, trials: int = 0):
        """(step, state before the first one), the step to be compiled by its first call.

        With `trials` it is that of so many learning rates together, the state theirs.
        """
        frozen, rules = self.task.frozen(self.facts), self.task.rules
        transform = optim.optimizer(self.optimizer, frozen, rules)
        factor = optim.rate_factor(self.optimizer, IMAGES, self.facts.steps_per_epoch)

        def create():
            params, stats = self.encoder.init(jax.random.key(0), self.scale.size)
            parts = {'encoder': {'params': params, 'batch_stats': stats}}
            key = jax.random.key(1)
            return states.create(self.task, self.encoder, transform, parts, key, RATE)

        step = make_train_step(
            self.task, self.encoder, transform, factor, self.mesh, together=bool(trials)
        )
        state = jax.jit(create)()
        state = states.stack([state] * trials) if trials else state
        spread = states.layout(self.task, state, bool(trials))
        return step, parallel.place(self.mesh, jax.device_get(state), spread)

    def noise(self) -> dict:
        """What the loader would give, on the devices."""
        rng = np.random.default_rng(0)
        batch, stored = self.scale.batch, self.scale.stored
        labels = rng.integers(0, len(NAMES), batch)
        if not getattr(self.task, 'exclusive', True):
            labels = labels[:, None] == np.arange(len(NAMES))
        fields = {
            'image': rng.integers(0, 256, (batch, stored, stored, 1), np.uint8),
            'label': labels.astype(np.int32),
            'row': np.arange(batch, dtype=np.int32),
        }
        needed = {name: fields[name] for name in ('image', *self.task.needs)}
        return parallel.put_rows(self.mesh, needed)

    def step_run(self) -> Callable[[], int]:
        """The compiled step on a batch of noise, ready to be run once more."""
        (step, state), batch = self.step(), self.noise()
        current = [state]

        def run() -> int:
            current[0], metrics, _ = step(current[0], batch)
            jax.block_until_ready(metrics)
            return self.scale.batch

        run()
        return run

    def views_run(self, repeats: int) -> Callable[[], int]:
        """The compiled views alone, ready to be made so many times again."""
        make = parallel.sharded(
            lambda key, batch: make_views(self.task, self.encoder, key, batch),
            self.mesh,
            (False, True),
            True,
        )
        batch, key = self.noise(), jax.random.key(2)

        def run() -> int:
            for _ in range(repeats):
                jax.block_until_ready(make(key, batch))
            return repeats * self.scale.batch

        run()
        return run
