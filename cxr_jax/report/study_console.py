"""A study as aligned tables of less than 100 columns for the console, in plain ASCII."""

import textwrap
from collections.abc import Sequence

from cxr_jax.report.console import WIDTH
from cxr_jax.report.formats import interval, percent, plain
from cxr_jax.report.study_page import study_cautions
from cxr_jax.report.study_tables import class_sets, p_value, points, rows_of, show, tests_of

_NAME_WIDTH = 34
_REGIONS = 2  # side by side; with them no table is wider than WIDTH


def format_study(study: dict) -> str:
    """Plan, balanced accuracies, comparisons that stand out, cautions; the dict of study.json."""
    plan = study['plan']
    told = (
        f'{plain(plan.get("distinct"))} distinct stages: {plain(plan.get("trained"))} trained, '
        f'{plain(plan.get("found"))} found; {plain(plan.get("shared"))} trainings saved by sharing'
    )
    blocks = [f'{_wrap(study["name"])}\n{_wrap(told)}']
    for class_set in class_sets(study):
        regions = study['regions']
        for start in range(0, len(regions), _REGIONS):
            blocks.append(_accuracy(study, class_set, regions[start : start + _REGIONS]))
    blocks.append(_comparisons(study))
    blocks.append('\n'.join(_wrap(f'! {text}', '  ') for text in study_cautions(study)))
    text = '\n\n'.join(block for block in blocks if block)
    return text.replace('→', '->').encode('ascii', 'replace').decode()


def _wrap(text: str, indent: str = '') -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent)


def _accuracy(study: dict, class_set: str, regions: Sequence[str]) -> str:
    lines = [
        [f'classes: {class_set}', *(x for region in regions for x in (region, '95 % interval'))]
    ]
    for row in rows_of(study, class_set):
        figures = [row.figure(region, 'balanced_accuracy') for region in regions]
        cells = [x for f in figures for x in (show(percent(f['value'])), show(interval(f)))]
        lines.append([row.title, *cells])
    tests = tests_of(study, class_set)
    if tests:
        chance = percent(tests[0]['chance']['balanced_accuracy'])
        lines.append(['chance', *[chance, ''] * len(regions)])
    return _align(lines)


def _comparisons(study: dict) -> str:
    """The comparisons with a corrected p below 0.05, and how many there are in all."""
    found = study['comparisons']
    if not found or not found['comparisons']:
        return ''
    clear = [r for r in found['comparisons'] if r['p_holm'] is not None and r['p_holm'] < 0.05]
    clear.sort(key=lambda row: row['p_holm'])
    told = _wrap(
        f'{len(clear)} of {len(found["comparisons"])} paired comparisons of balanced accuracy '
        "have a p-value below 0.05 after Holm's correction (by region)."
    )
    lines = [['clear differences', 'region', 'classes', 'points', 'p (Holm)']]
    lines += [
        [f'{r["name"]} - {r["reference"]}', r['region'], r['class_set'],
         points(r['difference']['value']), p_value(r['p_holm'])]
        for r in clear[:10]
    ]  # fmt: skip
    return told + (f'\n\n{_align(lines)}' if clear else '')


def _align(rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right, two blanks between."""
    rows = [[row[0].replace('→', '->'), *row[1:]] for row in rows]
    rows = [[textwrap.shorten(row[0], _NAME_WIDTH, placeholder=' ..'), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])
