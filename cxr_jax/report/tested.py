"""The figures of the test images: headline, every measure, every class or finding, calibration."""

from cxr_jax.report.attention import inside_rows
from cxr_jax.report.blocks import Block, Table, Text, literal, table
from cxr_jax.report.formats import (
    confidence,
    in_a_sentence,
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
        f'{in_a_sentence(measure.title)} is **{value}** ({confidence(test)} interval {bounds})'
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
        figures.append((in_a_sentence(measure.title), found['figure']))
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


def names_table(results: dict) -> Table:
    """Every class or finding; for a console the interval of its first measure only, and AIL."""
    test, attention = results['test'], results['attention']
    what = 'class' if test['exclusive'] else 'finding'
    header, short_header = [what, 'images', 'patients'], [what, 'images']
    rows = [
        [literal(row['name']), plain(row['images']), plain(row['patients'])]
        for row in test['per_name']
    ]
    short = [row[:2] for row in rows]
    figures = []
    for i, name in enumerate(test['per_name'][0]['figures'] if rows else ()):
        measure = measure_of(test, name)
        title = in_a_sentence(measure.title)
        bounds = f'{confidence(test)} interval'
        header += [title, bounds]
        short_header += [title] if i else [title, bounds]
        for row, brief, found in zip(rows, short, test['per_name'], strict=True):
            cells = two_cells(found['figures'][name], measure.unit)
            row += cells
            brief += cells[:1] if i else cells
            figures.append((f'{title} of {row[0]}', found['figures'][name]))
    if attention and attention['images']:
        short_header.append('AIL')
        for brief, found in zip(short, attention['per_name'], strict=True):
            brief.append(percent(found['ail']['value']))
    return table(
        header, rows, title=f'By {what}', remarks=remarks(figures),
        short=table(short_header, short),
    )  # fmt: skip


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


def _calibration(test: dict) -> list[Block]:
    return []
