"""The report of a lung segmenter: page, pictures, console table."""

import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cxr_jax.report.figures.pictures import STYLE, curves_picture, new_figure
from cxr_jax.report.formats import decimal, duration, interval, percent, plain
from cxr_jax.report.page import table
from cxr_jax.report.writer import json_ready, save_figure
from cxr_jax.store.files import write_atomically, write_json, write_text

FIGURES = (
    ('dice', 'Dice of the masks as they are written'),
    ('iou', 'IoU of the masks as they are written'),
    ('raw_dice', 'Dice before the clean-up'),
    ('accepted', 'Share of the masks that pass the quality control'),
)
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
    pictures = {
        'gallery.png': gallery_picture(choose(tested)),
        'curves.png': curves_picture([
            {'title': title, 'log': log, 'chance': None}
            for title, log in zip(titles, logs, strict=True)
        ]),
    }
    for name, figure in pictures.items():
        write_atomically(directory / name, lambda path, figure=figure: save_figure(figure, path))
    write_text(directory / 'results.md', render_page(results, tested))
    write_json(directory / 'results.json', json_ready(results))


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


def render_page(results: dict, tested: Sequence[Mapping]) -> str:
    """The page in Markdown."""
    test, data = results['test'], results['data']
    folds = results['folds']
    origin = (
        f'{folds}-fold cross-validation by patient: every image is tested by the network that has '
        'not seen its patient.'
        if folds
        else 'Test split of the prepared set: no patient of it was trained on.'
    )
    if not data['has_patient_ids']:
        origin += ' **Some images have no patient id, so a person may be on both sides.**'
    stages = [
        [str(i + 1), plain(counts['train']), plain(stage['steps']),
         decimal(stage['final_metrics']['loss']), decimal(stage['final_metrics']['dice']),
         duration(stage['wall_seconds'])]
        for i, (stage, counts) in enumerate(zip(results['stages'], data['counts'], strict=True))
    ]  # fmt: skip
    reasons = Counter(row['reason'] for row in tested if row['reason'])
    sections = [
        f'# {results["name"]}: a lung segmenter',
        f'> {results["banner"]}' if results['banner'] else '',
        f'{results["network"]}, on {data["name"]} at {data["size"]} px, seed {results["seed"]}. '
        f'{test["images"]} test images of {test["patients"]} patients. {origin}',
        table(
            ['mean over the test images', 'value', '95 % interval'],
            [
                [text, _show(key)(test[key]['value']), interval(test[key], key == 'accepted')]
                for key, text in FIGURES
            ],
        ),
        'Written masks are the two largest components with their holes filled. The interval is a '
        'bootstrap over patients; it covers the choice of test images, not that of the training.',
        table(['rejected because', 'test images'], [[k, plain(n)] for k, n in reasons.items()])
        if reasons
        else '',
        '![worst, middle and best test images](gallery.png)',
        '## Training',
        table(['fold', 'images', 'steps', 'loss', 'Dice in training', 'time'], stages),
        '![training loss](curves.png)',
        f'## How to reproduce\n\n```\n{results["command"]}\n```',
    ]
    return '\n\n'.join(section for section in sections if section) + '\n'


def _show(key: str):
    return percent if key == 'accepted' else decimal


def format_table(results: dict) -> str:
    """The figures for the console."""
    test = results['test']
    lines = [f'{results["name"]}: {test["images"]} test images of {test["patients"]} patients']
    lines += [
        f'  {text:<50} {_show(key)(test[key]["value"]):>8}  '
        f'{interval(test[key], key == "accepted")}'
        for key, text in FIGURES
    ]
    return '\n'.join(lines)


def format_masks(card: dict) -> str:
    """Counts and reasons of written masks for the console."""
    lines = [f'Lung masks {card["name"]!r} of {card["dataset"]} at {card["size"]} px']
    for split, accepted in card['accepted'].items():
        rejected = card['rejected'][split]
        classes = [
            f'{name} {b} of {a + b}'
            for name, a, b in zip(
                card['classes'], accepted['classes'], rejected['classes'], strict=True
            )
            if b
        ]
        by_class = f' ({", ".join(classes)})' if classes else ''
        lines.append(
            f'  {split:<11} {accepted["images"]:>6} accepted {rejected["images"]:>6} rejected'
            + by_class
        )
    lines += [f'  {n:>6} x {reason}' for reason, n in card['reasons'].items()]
    lines.append('  region          mean      std   (training images, on [0, 1])')
    lines += [
        f'  {region:<12} {values["mean"]:.5f}  {values["std"]:.5f}'
        for region, values in card['statistics'].items()
    ]
    return '\n'.join(lines)
