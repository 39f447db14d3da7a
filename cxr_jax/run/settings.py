"""The settings of a run as dataclasses, and the config that they make."""

import dataclasses
import re
from collections import Counter

from ml_collections import ConfigDict

from cxr_jax.models.encoder import EncoderSettings
from cxr_jax.run.monitors import MonitorSettings
from cxr_jax.store.settings import from_settings, setting, to_settings
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.train.stage import StageSettings
from cxr_jax.views.region import REGIONS
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What a run reads, and which of it."""

    dir: str = setting('', result=False)  # folder of the prepared data sets; empty = `data`
    name: str = 'siim_covid19'  # prepared set whose images are classified and tested
    size: int = setting(256, at_least=8)  # pixels of the prepared images
    classes: tuple[str, ...] = ()  # classes or findings of the readout; empty = all of the set's
    uncertain: str = setting(  # what an uncertain label of a finding counts as
        'ignore', one_of=('ignore', 'positive', 'negative'), neutral='ignore'
    )
    # Prepared sets that pretext stages read, all of their images; empty = the training images of
    # `name`, with and without labels.
    pretext: tuple[str, ...] = ()
    pretext_fraction: float = setting(1.0, above=0, at_most=1, neutral=1.0)  # of their patients
    label_fraction: float = setting(1.0, above=0, at_most=1, neutral=1.0)  # of labelled patients
    folds: int = setting(0, at_least=0, neutral=0)  # cross-validation by patient; 0 = the splits
    masks: str = setting('', neutral='')  # lung masks of cxr_jax.segment apply; empty = stored ones
    region: str = setting('full', one_of=REGIONS)
    # Share of a device's memory that training images may take to live there; 0 = streamed.
    on_device: float = setting(0.0, at_least=0, at_most=1, result=False)


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """Of the test."""

    batch_size: int = setting(64, at_least=1, result=False)  # test images per step
    resamples: int = setting(2000, at_least=1)  # of the patient bootstrap behind the intervals


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """All settings of a run but those of its stages."""

    curriculum: tuple[str, ...] = ()  # stages of pretext tasks in their order; empty = from scratch
    readout: str = setting('classify', one_of=(*READOUTS, 'none'))  # what follows them
    preset: str = setting('', result=False)  # where the values come from
    seed: int = setting(0, at_least=0)  # of heads, views, order of the data and bootstrap
    store: str = setting('', result=False)  # trained stages; empty = `stages` beside the workdir
    keep: str = setting(  # of a finished stage: its bundle, or checkpoints and trials as well
        'bundle', one_of=('bundle', 'all'), result=False
    )
    data: DataSettings = DataSettings()
    encoder: EncoderSettings = EncoderSettings()
    eval: EvalSettings = EvalSettings()
    monitor: MonitorSettings = setting(MonitorSettings(), result=False)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A run's settings, checked; `stages` by name, in the order in which they are trained."""

    run: RunSettings
    stages: dict[str, StageSettings]

    @property
    def readout(self) -> str | None:
        """Name of the last stage if it is a readout."""
        return None if self.run.readout == 'none' else self.run.readout


def stage_names(run: RunSettings) -> tuple[str, ...]:
    """Names of the stages of a run, in order."""
    return (*run.curriculum, *(() if run.readout == 'none' else (run.readout,)))


def stages_of(names: str) -> tuple[str, ...]:
    """'moco_rot_moco' -> ('moco', 'rot', 'moco2'); 'scratch' -> ()."""
    if names == 'scratch':
        return ()
    stages, times = [], Counter()
    for name in names.split('_'):
        if name not in TASKS:
            raise UserError(
                f'{names!r} names an unknown pretext task, {name!r}. Known tasks: '
                f'{", ".join(TASKS)}; join them by _ in their order, as in '
                'configs/curriculum.py:moco_swav_rot, or write scratch for none. The readout '
                'follows by itself.'
            )
        times[name] += 1
        stages.append(name if times[name] == 1 else f'{name}{times[name]}')
    return tuple(stages)


def kind_of(name: str) -> str:
    """Name of the task of a stage: 'moco2' is the second instance of moco."""
    return re.sub(r'\d+$', '', name)


def make_config(run: RunSettings) -> ConfigDict:
    """The config of a run: every field of its settings, and each task's own recipe in its stage."""
    config = ConfigDict(to_settings(run))
    config.stage = ConfigDict({name: stage_config(name) for name in stage_names(run)})
    return config


def stage_config(name: str) -> ConfigDict:
    """Settings of one stage as a config, with the recipe of its task."""
    task = (TASKS | READOUTS)[kind_of(name)]
    config = ConfigDict(to_settings(StageSettings(task=task())))
    config.update_from_flattened_dict(dict(task.recipe))
    return config


def read_config(config: ConfigDict) -> Settings:
    """The settings of a config; UserError for a value that is out of its range."""
    entries = config.to_dict()
    stages = entries.pop('stage')
    run = from_settings(RunSettings(), entries, '')
    names = stage_names(run)
    if not names:
        raise UserError(
            'The run has no stage: name pretext tasks, or a readout (readout=classify).'
        )
    missing = [name for name in names if name not in stages]
    if missing:
        raise UserError(f'The config has no section stage.{missing[0]} for its curriculum {names}.')
    return Settings(run, {name: read_stage(name, stages[name]) for name in names})


def read_stage(name: str, entries: dict) -> StageSettings:
    """One stage's settings, checked; fields that follow from each other too."""
    known = TASKS | READOUTS
    if kind_of(name) not in known:
        raise UserError(f'{name!r} names no task; known are {", ".join(known)}.')
    default = StageSettings(task=known[kind_of(name)]())
    stage = from_settings(default, entries, f'stage.{name}')
    check_stage(name, stage)
    return stage


def check_stage(name: str, stage: StageSettings) -> None:
    """UserError for fields of a stage that contradict each other."""
    search, where = stage.search, f'--config.stage.{name}'
    if stage.data.balance == 'class' and kind_of(name) not in READOUTS:
        raise UserError(
            f'{where}.data.balance=class needs labels, which only a readout reads; choose one of '
            'none, source, patient.'
        )
    if not stage.task.trains and (search.protocol != 'off' or stage.early_stop.by != 'none'):
        raise UserError(
            f'{kind_of(name)} has nothing to train, so nothing can be searched or stopped: leave '
            f'{where}.search.protocol=off and {where}.early_stop.by=none.'
        )
    if search.low > search.high:
        raise UserError(
            f'{where}.search.low={search.low} is above {where}.search.high={search.high}; swap '
            'them.'
        )
    if stage.early_stop.by == 'loss' and stage.task.by_image:
        raise UserError(
            f'{where}.early_stop.by=loss is not possible: the loss of {kind_of(name)} is made of '
            'what it remembers of each training image, and says nothing of others. Use probe, rank '
            'or sigreg.'
        )
    if search.protocol in ('thesis', 'halving') and search.epochs > stage.epochs:
        raise UserError(
            f'{where}.search.epochs={search.epochs} is more than the {stage.epochs} epochs of the '
            'stage, which the winner of a search goes on to; lower it.'
        )
