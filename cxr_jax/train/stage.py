"""One stage of a curriculum: its settings, and all of it as planned."""

import dataclasses
import hashlib

import numpy as np

from cxr_jax.models.encoder import Encoder
from cxr_jax.store.identity import active
from cxr_jax.store.settings import setting
from cxr_jax.tasks.base import Facts, Task
from cxr_jax.tasks.distil import KINDS, LWF, NONE, Distillation, Distilled
from cxr_jax.train.optim import OptimizerSettings
from data_pipelines.prepared.corpus import Corpus, LeftOut

CRITERIA = ('probe', 'loss', 'rank', 'sigreg')  # see cxr_jax/train/early_stop.py
PROTOCOLS = ('off', 'thesis', 'sampled', 'halving')


@dataclasses.dataclass(frozen=True)
class StageData:
    """The images that a stage reads: what is not said here follows from the run's `data`."""

    # Prepared sets; empty = those of data.pretext (a readout: of data.name). The images decide what
    # a stage's key is, not how they were chosen.
    sets: tuple[str, ...] = setting((), result=False)
    # Share of their patients, of what data.pretext_fraction or data.label_fraction leaves.
    fraction: float = setting(1.0, above=0, at_most=1, result=False)
    # What is drawn equally often, round by round.
    balance: str = setting('none', one_of=('none', 'source', 'patient', 'class'), neutral='none')


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Of the learning rate, on the validation split: see cxr_jax/run/search.py."""

    protocol: str = setting('off', one_of=PROTOCOLS, neutral='off')
    low: float = setting(0.01, above=0)  # lowest candidate
    high: float = setting(0.25, above=0)  # highest candidate
    count: int = setting(6, at_least=1)  # candidates
    log: bool = False  # candidates even in the logarithm
    epochs: int = setting(20, at_least=1)  # of every candidate; halving: of the last cut's triple
    fraction: float = setting(0.08, above=0, at_most=1)  # sampled: share of the training images
    batch_sizes: tuple[int, ...] = setting((), at_least=1)  # candidates too; empty = the stage's

    def inactive(self) -> set[str]:
        """Fields without an effect: all, unless something is searched."""
        names = {field.name for field in dataclasses.fields(self)}
        if self.protocol == 'off':
            return names
        return set() if self.protocol == 'sampled' else {'fraction'}


@dataclasses.dataclass(frozen=True)
class EarlyStopSettings:
    """When a stage ends before its epochs are over. It leaves what it was after its best epoch.

    The rate follows the schedule of all epochs. Of a stage whose search goes on from a trial's
    state, the epochs of the trial are not judged.
    """

    # The ridge probe or the loss on the validation images; without labels: the effective rank, or
    # the distance from a normal distribution (SIGReg), of the features of the training images.
    by: str = setting('none', one_of=('none', *CRITERIA), neutral='none')
    patience: int = setting(5, at_least=1)  # epochs in a row that are not better than the best
    least: int = setting(10, at_least=1)  # epochs that are trained in any case

    def inactive(self) -> set[str]:
        """Fields without an effect: all, unless something is judged."""
        return {field.name for field in dataclasses.fields(self)} if self.by == 'none' else set()


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """Settings of one stage; `task` is the task with its hyper-parameters."""

    batch_size: int = setting(256, at_least=1)  # images per step, over all devices
    epochs: int = setting(100, at_least=1)  # passes over the training images
    checkpoint_epochs: float = setting(1.0, at_least=0, result=False)  # between two checkpoints
    # What is kept of the stage before, by a second term of the loss: see cxr_jax/tasks/distil.py.
    distil: str = setting(NONE, one_of=KINDS, neutral=NONE)
    distil_weight: float = setting(1.0, at_least=0)  # of that term
    distil_temperature: float = setting(2.0, above=0)  # lwf: of the softmax
    data: StageData = StageData()
    optimizer: OptimizerSettings = OptimizerSettings()
    search: SearchSettings = SearchSettings()
    early_stop: EarlyStopSettings = EarlyStopSettings()
    task: Task = Task()

    def inactive(self) -> set[str]:
        """Fields without an effect, given the others; those of a training, if there is none."""
        idle = set()
        if not self.task.trains:
            idle |= {'epochs', 'optimizer', 'search'}
            # Batch statistics that are found anew are means over batches.
            idle |= set() if self.task.fresh_statistics else {'batch_size'}
        if self.distil != LWF:
            idle |= {'distil_temperature'}
        if self.distil == NONE:
            idle |= {'distil_weight'}
        return idle

    @property
    def judged(self) -> bool:
        """Whether the validation images decide something."""
        return self.search.protocol != 'off' or self.early_stop.by in ('probe', 'loss')


@dataclasses.dataclass(frozen=True)
class Search:
    """How a stage's learning rate is found: see cxr_jax/run/search.py."""

    settings: SearchSettings
    trials: tuple['Stage', ...]
    winners: tuple['Stage', ...]  # what the stage becomes if that trial wins


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Images, and what a readout is to say of them: values and strata of a Target, else None."""

    corpus: Corpus
    labels: np.ndarray | None = None
    strata: np.ndarray | None = None

    @property
    def images(self) -> int:
        return len(self.corpus)


@dataclasses.dataclass(frozen=True)
class Probed:
    """What the frozen encoder of any stage can be read out on: labelled images, none of the test.

    A probe learns from `train` and is judged on `validation`; both at `image_size` pixels.
    """

    train: Labelled
    validation: Labelled
    names: tuple[str, ...]  # of the target
    exclusive: bool
    image_size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Everything that determines one stage's result, resolved (no `auto` left).

    `name` is the instance's ('moco2' the second of moco), `kind` its task's name in the registry.
    """

    name: str
    kind: str
    settings: StageSettings
    facts: Facts
    encoder: Encoder
    train: Labelled
    validation: Labelled
    left_out: LeftOut
    seed: int
    content: dict  # what its key is made of
    key: str
    parent_key: str | None
    search: Search | None = None
    probed: Probed | None = None  # of a run with labelled validation images
    distillation: Distillation | None = None
    on_device: float = 0.0  # share of a device's memory that the training images may take

    @property
    def task(self) -> Task:
        return self.settings.task

    @property
    def trained_task(self) -> Task | Distilled:
        """The task with all terms of the loss that is trained."""
        return Distilled(self.task, self.distillation) if self.distillation else self.task

    @property
    def optimizer(self) -> OptimizerSettings:
        return self.settings.optimizer

    @property
    def total_steps(self) -> int:
        return self.settings.epochs * self.facts.steps_per_epoch

    @property
    def program_key(self) -> tuple:
        """Equal for stages that compile to the same program: their peak rate is state."""
        optimizer = tuple(sorted(active(dataclasses.replace(self.optimizer, lr=0.0)).items()))
        return self.trained_task, self.facts, self.total_steps, repr(optimizer)


def stage_seed(seed: int, name: str) -> int:
    """Seed of a stage's head, views and order of the data: the run's seed and the stage's name."""
    return int(hashlib.sha256(f'{seed}/{name}'.encode()).hexdigest()[:8], 16)
