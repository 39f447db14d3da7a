"""One stage of a curriculum as planned: everything that determines its result."""

import dataclasses
import hashlib

from cxr_jax.tasks.base import Facts, Task
from data_pipelines.prepared.data import PreparedData


@dataclasses.dataclass(frozen=True)
class Search:
    """How a stage's learning rate is found: see cxr_jax.run.search."""

    protocol: str  # thesis, sampled or halving
    epochs: int  # of every candidate; halving: what its cuts are fractions of
    trials: tuple['Stage', ...]
    winners: tuple['Stage', ...]  # what the stage becomes if that trial wins


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything that determines one stage's result, resolved (no `auto` left)."""

    name: str
    task: Task
    config: object  # ConfigDict of config.stage.<name>
    facts: Facts
    data: PreparedData
    region: str
    seed: int
    content: dict  # what its key is made of
    key: str
    parent_key: str | None
    search: Search | None = None
    on_device: float = 0.0  # share of a device's memory that the training images may take

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.facts.steps_per_epoch


def stage_seed(seed: int, name: str) -> int:
    """Seed of a stage's head, views and order of the data: the run's seed and the task's name."""
    return int(hashlib.sha256(f'{seed}/{name}'.encode()).hexdigest()[:8], 16)
