"""The figures of the test images: headline, every measure, every class or finding, calibration."""

from typing import NamedTuple

from cxr_jax.report.attention import inside_rows
from cxr_jax.report.blocks import Block, Table, Text, literal, table
from cxr_jax.report.formats import (
    NOT_AVAILABLE,
    confidence,
    decimal,
    number,
    percent,
    plain,
    remarks,
    two_cells,
)
from cxr_jax.report.measures import headline_of, measure_of


def test_blocks(results: dict) -> list[Block]:
    """Everything that `evaluate` found."""
    test = results['test']
    return [
        Text(_lead(results)),
        figures_table(results),
        *_dropped(test),
        names_table(results),
        *_confusion(test),
        *_calibration(test),
    ]


def _lead(results: dict) -> str:
    test = results['test']
    measure, figure = headline_of(test)
    value, bounds = two_cells(figure, measure.unit)
    chance = ''
    if measure.chance is not None:
        chance = f'; chance is {number(measure.chance, measure.unit)}'
    return (
        f'On {plain(test["images"])} test images of {plain(test["patients"])} patients the '
        f'{measure.title} is **{value}** ({confidence(test)} interval {bounds})'
        f'{chance}.{_out_of_fold(results)}'
    )


def _out_of_fold(results: dict) -> str:
    if not results['folds']:
        return ''
    whose = 'its patient' if results['data']['has_patient_ids'] else 'it'
    return (
        f' The figures are those of all {results["folds"]} folds together: every image was tested '
        f'once, by the network that has not seen {whose}.'
    )


def figures_table(results: dict) -> Table:
    """Every measure beside its chance level, and the attention beside that of a uniform map."""
    test = results['test']
    rows, figures = [], []
    for name, found in test['figures'].items():
        measure = measure_of(test, name)
        figures.append((measure.title, found['figure']))
        rows.append([
            measure.title, *two_cells(found['figure'], measure.unit),
            '-' if measure.chance is None else number(measure.chance, measure.unit),
        ])  # fmt: skip
    return table(
        ['test images', 'value', f'{confidence(test)} interval', 'chance'],
        rows + inside_rows(results),
        remarks=remarks(figures),
    )


def _dropped(test: dict) -> list[Text]:
    if not test['dropped_resamples']:
        return []
    what = 'class' if test['exclusive'] else 'finding'
    return [Text(
        f'In {plain(test["dropped_resamples"])} of {plain(test["resamples"])} bootstrap resamples '
        f'no image of some {what} was drawn; the intervals that need it leave them out.'
    )]  # fmt: skip


class _Column(NamedTuple):
    """Of the table by name."""

    title: str
    cells: list[str]
    on_page: bool = True
    on_console: bool = True


def names_table(results: dict) -> Table:
    """Every class or finding; for a console the interval of its first measure only, and AIL."""
    test = results['test']
    what = 'class' if test['exclusive'] else 'finding'
    columns = _counts(test) + _measured(test)
    attention = results['attention']
    if attention and attention['images']:
        shares = [percent(row['ail']['value']) for row in attention['per_name']]
        columns.append(_Column('AIL', shares, on_page=False))
    figures = [
        (f'{measure_of(test, name).title} of {literal(row["name"])}', row['figures'][name])
        for name in test['name_measures']
        for row in test['per_name']
    ]
    names = [literal(name) for name in test['names']]

    def shown(columns: list[_Column], **more) -> Table:
        lines = zip(names, *(column.cells for column in columns), strict=True)
        return table([what, *(column.title for column in columns)], list(lines), **more)

    return shown(
        [column for column in columns if column.on_page],
        title=f'By {what}',
        remarks=remarks(figures),
        short=shown([column for column in columns if column.on_console]),
    )


def _counts(test: dict) -> list[_Column]:
    """Images and patients; of findings also in how many images they are known to be or not."""
    keys = {'images': True, 'known': True, 'patients': False}
    if test['exclusive']:
        del keys['known']
    return [
        _Column(key, [plain(row[key]) for row in test['per_name']], on_console=on_console)
        for key, on_console in keys.items()
    ]


def _measured(test: dict) -> list[_Column]:
    """Value, interval and, where the names differ in it, chance of every measure by name."""
    columns = []
    for i, name in enumerate(test['name_measures']):
        measure = measure_of(test, name)
        cells = [two_cells(row['figures'][name], measure.unit) for row in test['per_name']]
        chances = [number(row['chance'][name], measure.unit) for row in test['per_name']]
        columns += [
            _Column(measure.title, [value for value, _ in cells]),
            _Column(f'{confidence(test)} interval', [x for _, x in cells], on_console=i == 0),
        ]
        if len(set(chances) - {NOT_AVAILABLE}) > 1:
            columns.append(_Column('chance', chances, on_console=False))
    return columns


def _confusion(test: dict) -> list[Table]:
    """Only of exclusive classes."""
    if test['confusion'] is None:
        return []
    names = [literal(name) for name in test['names']]
    return [table(
        ['true \\\\ predicted', *names],
        [
            [name, *(plain(n) for n in counts)]
            for name, counts in zip(names, test['confusion'], strict=True)
        ],
        title='Confusion matrix (rows: true class; columns: predicted; images)',
    )]  # fmt: skip


def _calibration(test: dict) -> list[Table]:
    """What the scores say beside what is so; of findings all together, then each."""
    found = test['calibration']
    if not found['reliability']:
        return []
    what = 'highest score' if found['of'] == 'confidence' else 'score'
    true = 'right' if found['of'] == 'confidence' else 'there'
    tables = [table(
        [f'mean {what}', f'share that is {true}', 'number'],
        [
            [percent(row['predicted']), percent(row['observed']), plain(row['entries'])]
            for row in found['reliability']
        ],
        title=f'Calibration: the {what} in up to {found["bins"]} groups of equal size',
    )]  # fmt: skip
    if found['per_name']:
        tables.append(table(
            ['finding', 'number', 'Brier score', 'calibration error'],
            [
                [literal(row['name']), plain(row['entries']), decimal(row['brier']),
                 decimal(row['ece'])]
                for row in found['per_name']
            ],
            title='Calibration of each finding',
        ))  # fmt: skip
    return tables
