"""The tables of a study: headline, names, attention, comparisons, plan, runs.

A missing number is '-', and its reason stands below the table.
"""

from collections.abc import Collection, Sequence

from cxr_jax.report.attention import INSIDE
from cxr_jax.report.blocks import Block, Cell, Link, Table, Text, literal, table
from cxr_jax.report.formats import (
    NOT_AVAILABLE,
    difference,
    difference_interval,
    disk,
    duration,
    interval,
    is_known,
    number,
    p_value,
    percent,
    plain,
    remarks,
    two_cells,
)
from cxr_jax.report.measures import Measure, headline_of
from cxr_jax.report.study_grid import (
    Page,
    axis_of,
    level_heading,
    measure,
    other_axes,
    titles_of,
)

MISSING = '-'


def dash(text: str) -> str:
    return MISSING if text == NOT_AVAILABLE else text


def dashes(texts: Sequence[str]) -> list[str]:
    return [dash(text) for text in texts]


def points(unit: str) -> str:
    """What stands behind the title of a difference: ' (points)' of percentages."""
    return ' (points)' if unit == 'percent' else ''


def grid_table(study: dict, page: Page) -> Table:
    """The headline of every row in every column; for a console with intervals."""
    name = study['headline']
    shown = measure(study, name)
    figures = {
        row.level: [row.figure(column, 'figures', name) for column in page.columns]
        for row in page.rows
    }
    header = [
        literal(axis_of(study, 'rows')),
        *(literal(column) or shown.title for column in page.columns),
    ]

    def cell(figure: dict, with_interval: bool) -> str:
        value, bounds = dashes(two_cells(figure, shown.unit))
        return f'{value} ({bounds})' if with_interval and value != MISSING else value

    def rows(with_interval: bool) -> list[list[str]]:
        return [
            [literal(row.title), *(cell(each, with_interval) for each in figures[row.level])]
            for row in page.rows
        ]

    chances = [measure(study, name, page.tests(column)).chance for column in page.columns]
    known = any(chance is not None for chance in chances)
    chance = [['chance', *(dash(number(x, shown.unit)) for x in chances)]] if known else []
    short_title = f'{shown.title} (95 % interval)'
    if page.title:
        short_title += f', {page.title}'
    return table(
        header, rows(with_interval=False),
        short=table(header, rows(with_interval=True) + chance, title=short_title),
    )  # fmt: skip


def headline_table(study: dict, page: Page, column: str) -> list[Block]:
    """The headline with its interval, the spread of the seeds, kind and order label."""
    shown = measure(study, study['headline'])
    kinds, labels = any(r.kind for r in page.rows), any(r.labels.get(column) for r in page.rows)
    header = [
        literal(axis_of(study, 'rows')), *(['kind'] if kinds else []),
        *(['order'] if labels else []), shown.title, '95 % interval',
        f'SD of seeds{points(shown.unit)}', 'seeds',
    ]  # fmt: skip
    lines, figures = [], []
    for row in page.rows:
        figure = row.figure(column, 'figures', study['headline'])
        figures.append((literal(row.title), figure))
        lines.append([
            literal(row.title),
            *([literal(row.kind) or MISSING] if kinds else []),
            *([literal(row.labels.get(column) or MISSING)] if labels else []),
            *dashes(two_cells(figure, shown.unit)),
            _spread(figure['sd'], shown),
            plain(len(row.seeds(column))),
        ])  # fmt: skip
    return [*_heading(study, column), table(header, lines, remarks=remarks(figures))]


def _spread(sd: float | None, shown: Measure) -> str:
    if not is_known(sd):
        return MISSING
    return f'{100 * sd:.1f}' if shown.unit == 'percent' else f'{sd:.3f}'


def names_table(study: dict, page: Page, column: str) -> list[Block]:
    """The first measure of every class or finding with its interval."""
    names = [row['name'] for row in page.per_name(column)]
    if not names:
        return []
    name = first_of_names(page, column)
    shown = measure(study, name)
    lines, figures = [], []
    for row in page.rows:
        mine = [row.named(column, own, name) for own in names]
        figures += [
            (f'{literal(row.title)}, {literal(own)}', figure)
            for own, figure in zip(names, mine, strict=True)
        ]
        cells = [dashes(two_cells(figure, shown.unit)) for figure in mine]
        lines.append([literal(row.title), *(f'{value} ({bounds})' for value, bounds in cells)])
    header = [f'{literal(own)} (95 % interval)' for own in names]
    header.insert(0, literal(axis_of(study, 'rows')))
    return [*_heading(study, column), table(header, lines, remarks=remarks(figures))]


def first_of_names(page: Page, column: str) -> str:
    """The measure by name that is shown."""
    return next(iter(page.per_name(column)[0]['figures']))


def attention_table(study: dict, page: Page, column: str, part: str) -> list[Block]:
    """AIL beside the lung-area fraction, or the same of the lesion boxes."""
    inside = INSIDE[part]
    header = [literal(axis_of(study, 'rows')), 'images', inside.title, '95 % interval',
              inside.area_title, f'{inside.title} − {inside.area_title} (points)',
              '95 % interval']  # fmt: skip
    lines, figures = [], []
    for row in page.rows:
        share, area, excess = (
            row.figure(column, part, key) for key in (inside.share, inside.area, 'excess')
        )
        figures.append((literal(row.title), share))
        lines.append([
            literal(row.title),
            plain(row.images(column, part)),
            *dashes(two_cells(share)),
            dash(percent(area['value'])),
            dash(difference(excess['value'])),
            dash(difference_interval(excess)),
        ])  # fmt: skip
    return [*_heading(study, column), table(header, lines, remarks=remarks(figures))]


def has_attention(study: dict, part: str) -> bool:
    return any((mean[part] or {}).get('images') for mean in study['means'])


def _heading(study: dict, column: str) -> list[Block]:
    heading = level_heading(axis_of(study, 'columns'), column)
    return [Text(f'{heading}.')] if heading else []


def comparison_blocks(study: dict) -> list[Block]:
    """The paired tests, one table a family, with the number of comparisons."""
    found = study['comparisons']
    if not found or not found['comparisons']:
        return [Text('There is nothing to compare: no row has a reference.')]
    over = literal(found['over'])
    blocks = [Text(
        f'Statistic: {literal(found["statistic"])}, first minus second model, on the same test '
        f'images; {plain(found["resamples"])} bootstrap resamples of {over}. p-value: '
        f'{literal(found["p_value"])}.'
        + (
            ' They tell whether these trained models differ on other patients; whether models '
            'trained from other seeds would, the SD of seeds tells.'
            if 'seeds' not in over
            else ''
        )
    )]  # fmt: skip
    for family in found['families']:
        fixed = family['levels']
        mine = [c for c in found['comparisons'] if fixed.items() <= c['levels'].items()]
        heading = ', '.join(level_heading(axis, level) for axis, level in fixed.items())
        total = f"Holm's correction over {plain(family['comparisons'])} comparisons."
        blocks += [
            Text(f'{heading}. {total}' if heading else total),
            _comparisons(study, mine, [axis for axis in study['axes'] if axis not in fixed]),
        ]
    return blocks


def _comparisons(study: dict, rows: list[dict], axes: list[str]) -> Table:
    """`axes`: those whose levels the family's comparisons do not have in common."""
    found, titles = study['comparisons'], compared_titles(study)
    unit = study['measures'][found['measure']]['unit']
    others = [axis for axis in axes if axis != found['axis']]
    pairs = [(titles[row['first']], second_title(row, titles)) for row in rows]
    lines = [
        [
            first,
            second,
            *(literal(row['levels'][axis]) for axis in others),
            dash(difference(row['difference']['value'], unit)),
            dash(difference_interval(row['difference'], unit)),
            dash(p_value(row['p'])),
            dash(p_value(row['p_holm'])),
            plain(len(row['seeds'])),
        ]
        for row, (first, second) in zip(rows, pairs, strict=True)
    ]
    return table(
        [literal(found['axis']), 'against', *map(literal, others), f'difference{points(unit)}',
         '95 % interval', 'p', 'p (Holm)', 'seeds'],
        lines,
        remarks=remarks(
            (f'{first} against {second}', row['difference'])
            for row, (first, second) in zip(rows, pairs, strict=True)
        ),
    )  # fmt: skip


def compared_titles(study: dict) -> dict[str, str]:
    """Level of the compared axis -> its title, as marked text."""
    axis = study['comparisons']['axis']
    if axis == axis_of(study, 'rows'):
        return titles_of(study)
    return {level: literal(level) for level in study['axes'][axis]}


def second_title(row: dict, titles: dict[str, str]) -> str:
    """Of a comparison's reference, with its role if that is not its own name."""
    title = titles[row['second']]
    return title if row['role'] in ('', row['second']) else f'{title} ({literal(row["role"])})'


def plan_table(study: dict) -> Table:
    """Stages planned, shared, trained and found."""
    plan, lines = study['plan'], []
    what = {
        'runs': f'runs ({" × ".join(map(literal, [*study["axes"], "seed"]))})',
        'stages': 'stages of all runs together',
        'distinct': 'distinct stages',
        'shared': 'trainings saved by sharing',
        'trained': 'trained by this study',
        'found': 'found finished in the store',
    }
    lines = [[text, dash(plain(plan.get(key)))] for key, text in what.items()]
    for key, text, show in (
        ('estimated_seconds', 'estimated time', duration), ('seconds', 'time taken', duration),
        ('bytes', 'disk that the finished stages take', disk),
    ):  # fmt: skip
        if key in plan:
            lines.append([text, dash(show(plan[key]))])
    return table(['the plan', ''], lines)


def runs_table(study: dict, galleries: Collection[str]) -> Table:
    """Every run with links to its report, and to its gallery if listed (by its directory)."""
    others, named = other_axes(study), []
    if study['headline']:
        named = [measure(study, study['headline']).title, '95 % interval']
    header = ['run', *map(literal, others), 'seed', *named, 'stages trained', 'report', 'gallery']
    lines: list[list[Cell]] = []
    for cell in study['cells']:
        folder, figures = cell['directory'], [MISSING] * len(named)
        if cell['test']:
            own, figure = headline_of(cell['test'])
            figures = dashes([number(figure['value'], own.unit), interval(figure, own.unit)])
        trained = sum(not stage['reused'] for stage in cell['stages'])
        lines.append([
            literal(cell['title']), *(literal(cell['levels'][axis]) for axis in others),
            str(cell['seed']), *figures, f'{trained} of {len(cell["stages"])}',
            Link('report', f'{folder}/results.md'),
            Link('gallery', f'{folder}/gallery.png') if folder in galleries else MISSING,
        ])  # fmt: skip
    return table(header, lines)
