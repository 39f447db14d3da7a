"""A study for the console."""

from cxr_jax.report.blocks import Block, Cautions, Table, Text, literal, table
from cxr_jax.report.console import to_console
from cxr_jax.report.formats import difference, p_value, plain
from cxr_jax.report.study_grid import pages_of
from cxr_jax.report.study_tables import compared_titles, dash, grid_table, points, second_title
from cxr_jax.report.study_text import study_cautions

_SHOWN = 10


def format_study(study: dict) -> str:
    """Plan, the headline of every cell, comparisons that stand out, cautions."""
    return to_console(study_summary(study))


def study_summary(study: dict) -> list[Block]:
    """The blocks of a console."""
    plan = study['plan']
    told = (
        f'{plain(plan.get("distinct"))} distinct stages: {plain(plan.get("trained"))} trained, '
        f'{plain(plan.get("found"))} found; {plain(plan.get("shared"))} trainings saved by sharing'
    )
    return [
        Text(literal(study['name'])),
        Text(told),
        *(grid_table(study, page) for page in pages_of(study) if study['headline']),
        *_clear_differences(study),
        Cautions(tuple(study_cautions(study))),
    ]


def _clear_differences(study: dict) -> list[Block]:
    """The comparisons with a corrected p below 0.05, and how many there are in all."""
    found = study['comparisons']
    if not found or not found['comparisons']:
        return []
    shown = study['measures'][found['measure']]
    clear = [r for r in found['comparisons'] if r['p_holm'] is not None and r['p_holm'] < 0.05]
    clear.sort(key=lambda row: row['p_holm'])
    axes = {axis for family in found['families'] for axis in family['levels']}
    by = f' (by {", ".join(sorted(map(literal, axes)))})' if axes else ''
    told = Text(
        f'{len(clear)} of {len(found["comparisons"])} paired comparisons of '
        f"{shown['title']} have a p-value below 0.05 after Holm's correction{by}."
    )
    return [told, _table(study, clear[:_SHOWN])] if clear else [told]


def _table(study: dict, rows: list[dict]) -> Table:
    axis, titles = study['comparisons']['axis'], compared_titles(study)
    unit = study['measures'][study['comparisons']['measure']]['unit']
    others = [name for name in study['axes'] if name != axis]
    return table(
        ['clear differences', 'against', *map(literal, others), f'difference{points(unit)}',
         'p (Holm)'],
        [
            [
                titles[row['first']],
                second_title(row, titles),
                *(literal(row['levels'][name]) for name in others),
                dash(difference(row['difference']['value'], unit)),
                p_value(row['p_holm']),
            ]
            for row in rows
        ],
    )  # fmt: skip
