"""What the runs of a study left, read again: per cell, and per model over its seeds."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cxr_jax.evaluation.cohort import Table
from cxr_jax.run.curriculum import PREDICTIONS_FILE
from cxr_jax.run.workdir import RESULTS_FILE
from cxr_jax.study.grid import Cell


@dataclasses.dataclass(frozen=True)
class Finished:
    """A cell that has run: its pretext stages, its folder relative to the study's, its results.json
    and the table of its predictions (with folds: out of fold, all of them), None without one."""

    cell: Cell
    tasks: tuple[str, ...]
    directory: str
    results: Mapping
    table: Table | None


@dataclasses.dataclass(frozen=True)
class Model:
    """One combination of levels with a readout, trained from one or several seeds."""

    levels: Mapping[str, str]
    runs: Sequence[Finished]

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.runs[0].tasks

    @property
    def seeds(self) -> list[int]:
        return [run.cell.seed for run in self.runs]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes or findings that it tells."""
        return tuple(self.runs[0].results['test']['names'])

    @property
    def exclusive(self) -> bool:
        return self.runs[0].results['test']['exclusive']

    def without(self, *axes: str) -> dict[str, str]:
        """Its levels on all other axes."""
        return self.runs[0].cell.without(*axes)


def read(cell: Cell, tasks: tuple[str, ...], workdir: pathlib.Path, study: pathlib.Path) -> Finished:
    """What the run of a cell left in `workdir`, below the folder of the study."""
    results, table = json.loads((workdir / RESULTS_FILE).read_text()), None
    if results['test']:
        with np.load(workdir / PREDICTIONS_FILE) as arrays:
            table = {name: x for name, x in arrays.items() if name != 'names'}
    return Finished(cell, tasks, str(workdir.relative_to(study)), results, table)


def models_of(finished: Iterable[Finished]) -> list[Model]:
    """The cells with a readout, those that differ in their seed together, in the order given."""
    groups: dict[tuple, list[Finished]] = {}
    for run in finished:
        if run.table is not None:
            groups.setdefault(tuple(run.cell.levels.items()), []).append(run)
    return [Model(dict(levels), runs) for levels, runs in groups.items()]
