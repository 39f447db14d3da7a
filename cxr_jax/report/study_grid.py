"""A study's results as pages of rows and columns; its dict is described in study_page.py."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from cxr_jax.report.attention import REGIONS
from cxr_jax.report.blocks import literal
from cxr_jax.report.measures import Measure

NO_RUN, NOT_MEASURED = 'no finished run', 'not measured'


def _nothing(reason: str) -> dict:
    """A figure without a value."""
    return {'value': None, 'low': None, 'high': None, 'reason': reason, 'per_seed': [], 'sd': None}


@dataclasses.dataclass(frozen=True)
class Row:
    """One level of the row axis in every column ('' in a study without a column axis)."""

    level: str
    title: str  # data
    kind: str
    labels: Mapping[str, str]  # column -> order label
    means: Mapping[str, dict]  # column -> its entry of study['means']

    def figure(self, column: str, *path: str) -> dict:
        """The figure at `path` of the mean; one without a value if there is none."""
        found = self.means.get(column)
        if found is None:
            return _nothing(NO_RUN)
        for key in path:
            found = (found or {}).get(key)
        return found or _nothing(NOT_MEASURED)

    def named(self, column: str, name: str, measure: str) -> dict:
        """The figure of a class or finding."""
        if column not in self.means:
            return _nothing(NO_RUN)
        rows = {row['name']: row['figures'] for row in self.means[column]['per_name']}
        return rows.get(name, {}).get(measure) or _nothing(NOT_MEASURED)

    def images(self, column: str, part: str) -> int:
        """Images in which attention was measured."""
        return ((self.means.get(column) or {}).get(part) or {}).get('images', 0)

    def seeds(self, column: str) -> list[int]:
        return self.means.get(column, {}).get('seeds', [])


@dataclasses.dataclass(frozen=True)
class Page:
    """All cells with the same levels of every axis that is neither row nor column."""

    levels: Mapping[str, str]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    all_tests: tuple[tuple[str, dict], ...]  # column and test of its cells that have one

    @property
    def title(self) -> str:
        """'classes: negative/typical'; '' if every axis is a row or a column."""
        return ', '.join(f'{literal(a)}: {literal(level)}' for a, level in self.levels.items())

    def tests(self, column: str | None = None) -> list[dict]:
        """Of one column, or of all."""
        return [test for own, test in self.all_tests if column in (None, own)]

    def per_name(self, column: str) -> list[dict]:
        """Classes or findings of a column and their figures, of its first row that has some."""
        return next((row.means[column]['per_name'] for row in self.rows if column in row.means), [])

    @property
    def slug(self) -> str:
        """For the names of files: '-negative-typical'."""
        return slug('', *self.levels.values())


def slug(*parts: str) -> str:
    """Lower-case letters and digits with '-' between: a part of a file's name."""
    return re.sub(r'[^a-z0-9]+', '-', ' '.join(parts).lower()).rstrip('-')


def axis_of(study: dict, place: str) -> str:
    """The axis of the rows, or of the columns ('' if there is none)."""
    return study['layout'].get(place) or ''


def other_axes(study: dict) -> list[str]:
    """The axes that are not the rows'."""
    return [axis for axis in study['axes'] if axis != axis_of(study, 'rows')]


def pages_of(study: dict) -> Iterator[Page]:
    """In the order of the levels; combinations without a cell are left out."""
    rows, columns = axis_of(study, 'rows'), axis_of(study, 'columns')
    others = [axis for axis in study['axes'] if axis not in (rows, columns)]
    for levels in itertools.product(*(study['axes'][axis] for axis in others)):
        place = dict(zip(others, levels, strict=True))
        cells = [cell for cell in study['cells'] if place.items() <= cell['levels'].items()]
        means = [mean for mean in study['means'] if place.items() <= mean['levels'].items()]
        if cells:
            present = {cell['levels'].get(columns, '') for cell in cells}
            yield Page(
                levels=place,
                columns=tuple(c for c in study['axes'].get(columns, ['']) if c in present),
                rows=tuple(_rows(study, cells, means)),
                all_tests=tuple(
                    (cell['levels'].get(columns, ''), cell['test'])
                    for cell in cells
                    if cell['test']
                ),
            )


def _rows(study: dict, cells: list[dict], means: list[dict]) -> list[Row]:
    """In the order of the axis, those of one kind together."""
    axis, columns = axis_of(study, 'rows'), axis_of(study, 'columns')
    rows = []
    for level in study['axes'][axis]:
        mine = [cell for cell in cells if cell['levels'][axis] == level]
        if mine:
            rows.append(Row(
                level=level,
                title=mine[0]['title'],
                kind=mine[0]['kind'],
                labels={c['levels'].get(columns, ''): c['label'] for c in reversed(mine)},
                means={
                    mean['levels'].get(columns, ''): mean
                    for mean in means
                    if mean['levels'][axis] == level
                },
            ))  # fmt: skip
    kinds = list(dict.fromkeys(row.kind for row in rows))
    return sorted(rows, key=lambda row: kinds.index(row.kind))


def titles_of(study: dict) -> dict[str, str]:
    """Level of the row axis -> its title, as marked text."""
    axis = axis_of(study, 'rows')
    return {cell['levels'][axis]: literal(cell['title']) for cell in study['cells']}


def level_heading(axis: str, level: str) -> str:
    """'**full** (whole images)'; '' of no level."""
    if not level:
        return ''
    told = REGIONS.get(level) if axis == 'region' else None
    return f'**{literal(level)}**' + (f' ({told})' if told else '')


def run_title(study: dict, cell: dict) -> str:
    """'moco → rot (full, 4 classes, seed 0)', as marked text."""
    place = [literal(cell['levels'][axis]) for axis in other_axes(study)]
    place.append(f'seed {cell["seed"]}')
    return f'{literal(cell["title"])} ({", ".join(place)})'


def measure(study: dict, name: str, tests: Iterable[dict] = ()) -> Measure:
    """With its chance level, if the tests agree in one."""
    found = study['measures'][name]
    figures = [test['figures'][name] for test in tests if name in test['figures']]
    chances = {figure['chance'] for figure in figures}
    chance = chances.pop() if len(chances) == 1 else None
    return Measure(found['title'], found['unit'], found['higher_is_better'], chance)
