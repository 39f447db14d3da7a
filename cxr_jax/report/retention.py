"""What the stages of a run forget of each other: own measures on later encoders, and a probe."""

from cxr_jax.report.blocks import Block, Section, Table, Text, literal, table
from cxr_jax.report.formats import (
    confidence,
    difference,
    difference_interval,
    interval,
    number,
    plain,
)

_OWN = 'Own measure of each stage'
_PROBE = 'Linear probe, fitted again to every encoder'


def retention_sections(retention: dict | None) -> list[Section]:
    """The section of a page, if it was measured."""
    if not retention:
        return []
    own, *probe = retention_tables(retention)
    of_fold = '' if retention['fold'] is None else f' of fold {retention["fold"] + 1}'
    told = (
        f'Each row is a stage: its own task on the {plain(retention["images"])} validation images'
        f'{of_fold}, with the head, projector or decoder that it left, on the encoder as it was '
        'after this stage and after each later one. In brackets the interval; behind the first '
        'cell, the change since then comes before it.'
    )
    blocks: list[Block] = [Text(told), own]
    if probe:
        blocks += [
            Text(
                'A head that can no longer read its features does not mean that they are gone: a '
                'ridge probe on the frozen features of each encoder, fitted to the '
                f'{plain(retention["probe"]["fitted"])} labelled training images, tells what is '
                'still there for the readout.'
            ),
            *probe,
        ]
    return [Section('What the stages forget', tuple(blocks))]


def retention_tables(retention: dict | None) -> list[Table]:
    """Own measures after each stage, and the probe if there are labels."""
    if not retention:
        return []
    found = [_own(retention)]
    return [*found, _probe(retention)] if retention['probe'] else found


def _own(retention: dict) -> Table:
    stages, rows = retention['stages'], retention['rows']
    header = ['stage', 'measure', 'chance', *(f'after {literal(name)}' for name in stages)]
    long, short = [], []
    for row in rows:
        unit, first = row['unit'], stages.index(row['stage'])
        chance = '-' if row['chance'] is None else number(row['chance'], unit)
        before = [literal(row['stage']), literal(row['measure']), chance, *['-'] * first]
        cells = [cell['figure'] for cell in row['cells']]
        short.append([*before, *(number(cell['value'], unit) for cell in cells)])
        long.append([
            *before,
            f'{short[-1][len(before)]} ({interval(cells[0], unit)})',
            *(_changed(cell, unit) for cell in row['cells'][1:]),
        ])  # fmt: skip
    remarks = [
        _covered(retention, [row['stage'] for row in rows if row['over'] == over], over)
        for over in dict.fromkeys(row['over'] for row in rows)
    ]
    if any(not row['higher_is_better'] for row in rows):
        remarks.append('Of a loss, less is better.')
    return table(header, long, _OWN, tuple(remarks), short=table(header, short, _OWN))


def _changed(cell: dict, unit: str) -> str:
    """'30.1 %, -14.9 (-18.0 to -11.2)'."""
    change = cell['change']
    return (
        f'{number(cell["figure"]["value"], unit)}, {difference(change["value"], unit)} '
        f'({difference_interval(change, unit)})'
    )


def _covered(retention: dict, names: list[str], over: str) -> str:
    told = ', '.join(map(literal, names))
    draws = plain(retention['draws'])
    if over == 'patients':
        return f'{told}: {confidence(retention)} intervals over patients, of {draws} draws of views'
    return f'{told}: from the lowest to the highest of {draws} draws of views'


def _probe(retention: dict) -> Table:
    probe = retention['probe']
    unit = probe['unit']
    chance = '-' if probe['chance'] is None else number(probe['chance'], unit)
    places = ['before any', *(f'after {literal(name)}' for name in retention['stages'])]
    values = [number(figure['value'], unit) for figure in probe['figures']]
    bounds = [interval(figure, unit) for figure in probe['figures']]
    rows = [
        [place, value, bound, chance]
        for place, value, bound in zip(places, values, bounds, strict=True)
    ]
    header = ['encoder', probe['title'], f'{confidence(retention)} interval', 'chance']
    return table(header, rows, _PROBE)
