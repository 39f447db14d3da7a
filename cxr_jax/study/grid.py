"""A study as a grid: axes of levels, each level a few fields of one run's config set otherwise.

A *cell* is one level of every axis and a seed: one run. Nothing here reads data or trains.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from ml_collections import ConfigDict

from cxr_jax.run.settings import kind_of, stages_of
from cxr_jax.tasks import TASKS
from data_pipelines.errors import UserError

CURRICULUM, SCRATCH, IMAGENET = 'curriculum', 'scratch', 'imagenet'
ALL = 'all'  # level of a field whose empty tuple stands for everything
_SAFE = re.compile(r'[a-z0-9_][a-z0-9_.-]{0,59}')  # also where case is not told apart


@dataclasses.dataclass(frozen=True)
class Axis:
    """What is varied: {level: {field of the run's config, dots between its parts: value}}."""

    name: str
    levels: Mapping[str, Mapping]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: {axis: level}, its seed, and the fields that these set."""

    levels: Mapping[str, str]
    seed: int
    overrides: Mapping

    @property
    def title(self) -> str:
        """'moco_rot, region full, seed 0'."""
        named = [x if axis == CURRICULUM else f'{axis} {x}' for axis, x in self.levels.items()]
        return ', '.join([*named, f'seed {self.seed}'])

    @property
    def folder(self) -> str:
        """Relative path of its own, whatever the levels are called and whichever others there are:
        'region=full/curriculum=moco_rot,seed=0'. The last part is what the run is called."""
        axes = sorted(self.levels, key=lambda axis: (axis == CURRICULUM, axis))
        parts = [f'{file_name(axis)}={file_name(self.levels[axis])}' for axis in axes]
        return f'{"/".join(parts)},seed={self.seed}'

    def without(self, *axes: str) -> dict[str, str]:
        """Its levels on all other axes."""
        return {axis: level for axis, level in self.levels.items() if axis not in axes}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Axes shown as rows and columns of the tables; every other axis turns the page."""

    rows: str
    columns: str = ''


def file_name(text: str) -> str:
    """`text` as a part of a path: different for different texts, and itself if it is safe."""
    if _SAFE.fullmatch(text):
        return text
    told_apart = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f'{re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:50]}-{told_apart}'


def level_name(value) -> str:
    """What a value of a field is called: ('negative', 'typical') is 'negative/typical', 1.0 '1'."""
    if isinstance(value, tuple | list):
        return '/'.join(map(level_name, value)) or ALL
    return str(value).removesuffix('.0') if isinstance(value, float) else str(value)


def axes_of(config: ConfigDict) -> list[Axis]:
    """The axes of a study's config (configs/study.py) with the levels chosen there, that of the
    rows first, then that of the columns, then the others by name.

    A level is one that `config.levels` defines; else, on the axis `curriculum`, the names of tasks
    joined by _ (one that comes again is a stage of its own, `moco2`), `scratch`, or `imagenet`,
    which is left out without weights; else, where every level of its axis sets the same single
    field, a value of this field. UserError for another.
    """
    axes = []
    shown = [name for name in (config.layout.rows, config.layout.columns) if name in config.axes]
    for name in dict.fromkeys((*shown, *sorted(config.axes))):
        defined = {level: dict(fields) for level, fields in config.levels.get(name, ())}
        levels = {}
        for level in config.axes[name]:
            if name == CURRICULUM and level == IMAGENET and not config.imagenet_weights:
                continue
            levels[level_name(level)] = _fields_of(level, name, defined, config)
        axes.append(Axis(name, levels))
    empty = [f'--config.axes.{axis.name}' for axis in axes if not axis.levels]
    empty += [] if config.seeds else ['--config.seeds']
    if empty:
        raise UserError(f'The study is empty: list something in {" and ".join(empty)}.')
    return axes


def _fields_of(level, axis: str, defined: Mapping[str, dict], config: ConfigDict) -> dict:
    """The fields that a chosen level of an axis sets."""
    if level_name(level) in defined:
        return defined[level_name(level)]
    if axis == CURRICULUM:
        return _curriculum(level, config)
    fields = {field for each in defined.values() for field in each}
    if len(fields) == 1 and all(defined.values()):
        return {fields.pop(): level}
    raise UserError(
        f'{level!r} in --config.axes.{axis} is not defined; choose from {", ".join(defined)}, or '
        f'define it in config.levels.{axis}.'
    )


def _curriculum(level: str, config: ConfigDict) -> dict:
    if level == SCRATCH:
        return {CURRICULUM: ()}
    if level == IMAGENET:
        return {CURRICULUM: (), 'encoder.weights': config.imagenet_weights}
    try:
        return {CURRICULUM: stages_of(str(level))}
    except UserError as error:
        raise UserError(
            f'{level!r} in --config.axes.curriculum is no level ({SCRATCH} and {IMAGENET} are): '
            f'{error}'
        ) from None


def cells(axes: Sequence[Axis], seeds: Iterable[int]) -> list[Cell]:
    """Every combination of levels and seeds, the first axis (whose stages are shared) innermost.

    UserError where two axes set one field to different values.
    """
    found = []
    outer = [axis.levels for axis in reversed(axes[1:])]
    for levels in itertools.product(*outer):
        for seed in dict.fromkeys(seeds):
            for level in axes[0].levels:
                names = (level, *reversed(levels))
                chosen = {axis.name: x for axis, x in zip(axes, names, strict=True)}
                found.append(Cell(chosen, seed, _merged(axes, chosen)))
    return found


def _merged(axes: Iterable[Axis], chosen: Mapping[str, str]) -> dict:
    fields, origin = {}, {}
    for axis in axes:
        for field, value in axis.levels[chosen[axis.name]].items():
            if field in fields and fields[field] != value:
                raise UserError(
                    f'The axes {origin[field]} and {axis.name} both set {field}, to '
                    f'{fields[field]!r} and {value!r}; let one of them set it, in config.levels.'
                )
            fields[field], origin[field] = value, axis.name
    return fields


def run_config(run: ConfigDict, cell: Cell, stages: Iterable[str] = ()) -> ConfigDict:
    """The config of a cell's run: `run` with the cell's fields and seed, and its own stages only.

    `stages`: names of all stages of the study; one that `run` lacks starts as its task's. A field
    of a stage that the cell does not have changes nothing. UserError for a field that is not there
    or is of another kind.
    """
    each = ConfigDict(run.to_dict())
    for stage in stages:
        if stage not in each.stage:
            each.stage[stage] = ConfigDict(each.stage[kind_of(stage)].to_dict())
    each.lock()  # a locked one takes no new fields
    for field, value in cell.overrides.items():
        try:
            each.update_from_flattened_dict({field: value})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f'{cell.title}: the field {field} of config.run cannot be set to {value!r}: '
                f'{error.args[0]}'
            ) from None
    each.unlock()
    each.seed = cell.seed
    each.stage = ConfigDict(
        {
            name: settings
            for name, settings in each.stage.items()
            if name in each.curriculum or kind_of(name) not in TASKS
        }
    )
    return each


def layout_of(config: ConfigDict, axes: Sequence[Axis]) -> Layout:
    """The layout of a study's config; UserError for an axis that is not there."""
    layout = Layout(config.layout.rows, config.layout.columns)
    known = [axis.name for axis in axes]
    for place, name in (('rows', layout.rows), ('columns', layout.columns)):
        if name not in known and (name or place == 'rows'):
            raise UserError(
                f'--config.layout.{place}={name} is no axis of the study; it has '
                f'{", ".join(known)}.'
            )
    if layout.rows == layout.columns:
        raise UserError(f'--config.layout.rows and .columns are both {layout.rows}.')
    return layout
