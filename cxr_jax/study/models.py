"""What the runs of a study left: per cell, and per model over its seeds."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from cxr_jax.evaluation.cohort import Table
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


def models_of(finished: Iterable[Finished]) -> list[Model]:
    """The cells with a readout, those that differ in their seed together, in the order given."""
    groups: dict[tuple, list[Finished]] = {}
    for run in finished:
        if run.table is not None:
            groups.setdefault(tuple(run.cell.levels.items()), []).append(run)
    return [Model(dict(levels), runs) for levels, runs in groups.items()]
