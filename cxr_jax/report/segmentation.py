"""The report of a lung segmenter: page, pictures, console tables."""

import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cxr_jax.report.blocks import (
    Block,
    Cautions,
    Code,
    Picture,
    Section,
    Table,
    Text,
    literal,
    table,
)
from cxr_jax.report.console import to_console
from cxr_jax.report.figures.pictures import STYLE, curves_picture, new_figure
from cxr_jax.report.files import write_page, write_pictures
from cxr_jax.report.formats import decimal, duration, plain, two_cells
from cxr_jax.report.markdown import to_markdown

# Key of each figure -> its title and unit.
FIGURES = {
    'dice': ('Dice of the masks as they are written', 'decimal'),
    'iou': ('IoU of the masks as they are written', 'decimal'),
    'raw_dice': ('Dice before the clean-up', 'decimal'),
    'accepted': ('Share of the masks that pass the quality control', 'percent'),
}
SHOWN = 12
PER_ROW = 4
TRUE, PREDICTED = '#35E0F0', '#FFB000'


def write_report(
    directory: str | os.PathLike,
    results: dict,
    logs: Sequence[Sequence[dict]],
    tested: Sequence[Mapping],
) -> None:
    """gallery.png, curves.png, results.md and, last, results.json.

    `logs`: of each stage; `tested`: of each test image 'image', 'mask', 'true' [R, R], 'dice' and
    'reason'.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    titles = [f'fold {i + 1}' if len(logs) > 1 else 'segment' for i in range(len(logs))]
    curves = [
        {'title': title, 'log': log, 'chance': None}
        for title, log in zip(titles, logs, strict=True)
    ]
    pictures = {
        'gallery.png': lambda: gallery_picture(choose(tested)),
        'curves.png': lambda: curves_picture(curves),
    }
    write_pictures(directory, pictures, older=())
    page = to_markdown(f'{literal(results["name"])}: a lung segmenter', blocks(results, tested))
    write_page(directory, 'results', page, results)


def format_table(results: dict) -> str:
    """The figures for the console."""
    test = results['test']
    told = f'{results["name"]}: {test["images"]} test images of {test["patients"]} patients'
    return to_console([Text(literal(told)), figures_table(test)])


def figures_table(test: dict) -> Table:
    return table(
        ['mean over the test images', 'value', '95 % interval'],
        [[text, *two_cells(test[key], unit)] for key, (text, unit) in FIGURES.items()],
    )


def blocks(results: dict, tested: Sequence[Mapping]) -> list[Block]:
    """The blocks of results.md."""
    reasons = Counter(row['reason'] for row in tested if row['reason'])
    rejected = table(
        ['rejected because', 'test images'], [[literal(k), plain(n)] for k, n in reasons.items()]
    )
    return [
        Cautions((literal(results['banner']),) if results['banner'] else ()),
        Text(_setting(results)),
        figures_table(results['test']),
        Text(
            'Written masks are the two largest components with their holes filled. The interval '
            'is a bootstrap over patients; it covers the choice of test images, not that of the '
            'training.'
        ),
        *([rejected] if reasons else []),
        Picture('gallery.png', 'worst, middle and best test images'),
        Section('Training', (_stages(results), Picture('curves.png', 'training loss'))),
        Section('How to reproduce', (Code(results['command']),)),
    ]


def _setting(results: dict) -> str:
    test, data, folds = results['test'], results['data'], results['folds']
    origin = (
        f'{folds}-fold cross-validation by patient: every image is tested by the network that has '
        'not seen its patient.'
        if folds
        else 'Test split of the prepared set: no patient of it was trained on.'
    )
    if not data['has_patient_ids']:
        origin += ' **Some images have no patient id, so a person may be on both sides.**'
    return (
        f'{literal(results["network"])}, on {literal(data["name"])} at {data["size"]} px, seed '
        f'{results["seed"]}. {test["images"]} test images of {test["patients"]} patients. {origin}'
    )


def _stages(results: dict) -> Table:
    return table(
        ['fold', 'images', 'steps', 'loss', 'Dice in training', 'time'],
        [
            [
                str(i + 1), plain(counts['train']), plain(stage['steps']),
                decimal(stage['final_metrics']['loss']), decimal(stage['final_metrics']['dice']),
                duration(stage['wall_seconds']),
            ]
            for i, (stage, counts) in enumerate(
                zip(results['stages'], results['data']['counts'], strict=True)
            )
        ],
    )  # fmt: skip


def choose(tested: Sequence[Mapping]) -> list[Mapping]:
    """The worst third, the middle and the best of the test images by Dice, worst first."""
    order = np.argsort([row['dice'] for row in tested], kind='stable')
    if len(order) > SHOWN:
        third, middle = SHOWN // 3, len(order) // 2
        order = np.concatenate([
            order[:third], order[middle - third // 2 :][:third], order[-third:]
        ])  # fmt: skip
    return [tested[i] for i in order]


def gallery_picture(rows: Sequence[Mapping]) -> Figure:
    """Radiographs with the true outline (cyan) and the predicted one (orange), Dice above."""
    lines = -(-len(rows) // PER_ROW)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.3 * PER_ROW, 2.55 * lines + 0.4)
        grid = figure.subplots(lines, PER_ROW, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, row in zip(grid.flat, rows, strict=False):
            top = np.iinfo(row['image'].dtype).max
            axes.imshow(row['image'], cmap='gray', vmin=0, vmax=top, interpolation='bilinear')
            for mask, colour in ((row['true'], TRUE), (row['mask'], PREDICTED)):
                if np.any(mask):
                    axes.contour(mask, levels=[0.5], colors=colour, linewidths=0.9)
            axes.set_title(f'Dice {row["dice"]:.3f}' + (' (rejected)' if row['reason'] else ''))
        handles = [
            matplotlib.lines.Line2D([], [], color=colour, label=label)
            for colour, label in ((TRUE, 'true outline'), (PREDICTED, 'predicted outline'))
        ]
        figure.legend(handles=handles, loc='outside lower center', ncols=2)
    return figure


def format_masks(card: dict) -> str:
    """Counts and reasons of written masks for the console; the card is that of the masks."""
    splits = [
        [
            literal(split), plain(accepted['images']), plain(card['rejected'][split]['images']),
            *(
                f'{plain(b)} of {plain(a + b)}'
                for a, b in zip(accepted['names'], card['rejected'][split]['names'], strict=True)
            ),
        ]
        for split, accepted in card['accepted'].items()
    ]  # fmt: skip
    names = [literal(f'rejected: {name}') for name in card['names']]
    reasons = [[literal(reason), plain(n)] for reason, n in card['reasons'].items()]
    name, dataset = literal(card['name']), literal(card['dataset'])
    return to_console([
        Text(f'Lung masks {name} of {dataset} at {card["size"]} px'),
        table(['split', 'accepted', 'rejected', *names], splits),
        *([table(['rejected because', 'images'], reasons)] if reasons else []),
    ])
