"""Confusion matrix, ROC curves and training curves as matplotlib figures, without pyplot."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_jax.report.formats import is_known

STYLE = {
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.labelsize': 9,
    'axes.linewidth': 0.7,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'text.parse_math': False,  # a name of the data may hold a dollar
}
# Okabe and Ito's colours, told apart by readers with any colour vision.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
_GRAY = '#707070'
_RAW, _SMOOTHED, _CHANCE = 'each log entry', 'smoothed', 'chance level'


def new_figure(width: float, height: float, constrained: bool = True) -> Figure:
    """An Agg figure of so many inches, outside pyplot's global list."""
    figure = Figure((width, height), layout='constrained' if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def show_image(axes: Axes, image: np.ndarray, interpolation: str) -> None:
    """An image [S, S, 1] or [S, S, 3] in [0, 1]; what rounding has put beyond is cut off."""
    pixels = np.clip(image, 0, 1)
    axes.imshow(pixels, cmap='gray', vmin=0, vmax=1, interpolation=interpolation)


def confusion_picture(confusion: np.ndarray, names: Sequence[str]) -> Figure:
    """Counts [K, K] (rows: true) with the percent of each true class; colour follows percent."""
    confusion, k = np.asarray(confusion), len(names)
    images = confusion.sum(1)
    share = 100 * confusion / np.maximum(images, 1)[:, None]
    side = max(3.0, 0.8 * k)
    names = [textwrap.fill(name, 16, break_long_words=False) for name in names]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(side + 1.9, side + 0.8)
        axes = figure.add_subplot()
        shown = axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
        for row, column in np.ndindex(k, k):
            text = f'{confusion[row, column]:,}\n{share[row, column]:.1f} %' if images[row] else '–'
            axes.text(
                column, row, text, ha='center', va='center',
                color='white' if share[row, column] > 55 else '#202020',
                fontweight='bold' if row == column else 'normal',
            )
        axes.set_xticks(range(k), names, rotation=30 if k > 4 else 0,
                        ha='right' if k > 4 else 'center')
        axes.set_yticks(range(k), [f'{a}\n(n = {n:,})' for a, n in zip(names, images, strict=True)])
        axes.set(xlabel='predicted class', ylabel='true class')
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(k - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(k - 1) + 0.5, minor=True)
        axes.grid(which='minor', color='white', linewidth=1.5)
        axes.tick_params(which='minor', length=0)
        bar = figure.colorbar(shown, ax=axes, shrink=0.75, aspect=25, ticks=[0, 25, 50, 75, 100])
        bar.set_label('percent of the true class')
        bar.outline.set_visible(False)
    return figure


def roc_picture(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figure:
    """One ROC curve for each name, from scores [N, K] and labels.

    labels [N]: of each class against the rest; [N, K] of 1, 0, -1: of each finding, over the
    images in which it is known (not -1).
    """
    labels = np.asarray(labels)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.6, 4.4 + 0.18 * len(names))
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        for k, name in enumerate(names):
            own = (labels == k).astype(int) if labels.ndim == 1 else labels[:, k]
            known = labels >= 0 if labels.ndim == 1 else own >= 0
            positive = own[known] == 1
            if positive.any() and not positive.all():
                false, true = _roc_points(np.asarray(scores)[known, k], positive)
                count = f'n = {positive.sum():,}'
                if labels.ndim == 2:
                    count += f' of {len(positive):,}'
                axes.plot(
                    false, true, '-' if k < len(COLOURS) else '--', linewidth=1.5,
                    color=COLOURS[k % len(COLOURS)],
                    label=f'{name} (AUC {np.trapezoid(true, false):.3f}, {count})',
                )
        axes.set(
            xlabel='false positive rate (1 − specificity)',
            ylabel='true positive rate (sensitivity)',
            xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect='equal',
        )
        if len(axes.lines) > 1:
            figure.legend(loc='outside lower center', handlelength=1.5)
    return figure


def _roc_points(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every distinct threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind='stable')
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive[order])[last_of_tie] / positive.sum()
    false = np.cumsum(~positive[order])[last_of_tie] / (~positive).sum()
    return np.append(0, false), np.append(0, true)


def curves_picture(curves: Sequence[dict]) -> Figure:
    """Loss against step, one panel per stage, raw (pale) and smoothed.

    Each curve is {'title': str, 'log': list of {'step', 'loss', ...}, 'chance': float or None}.
    """
    columns = min(len(curves), 4)
    rows = -(-len(curves) // columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(2.7 * columns, 4.2), 2.5 * rows + 0.3)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, curve in zip(grid.flat, curves, strict=False):
            _curve(axes, curve)
        for axes in grid.flat[len(curves) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel('training loss')
        drawn = {line.get_label(): line for axes in grid.flat for line in axes.lines}
        handles = [drawn[label] for label in (_RAW, _SMOOTHED, _CHANCE) if label in drawn]
        if handles:
            figure.legend(handles=handles, loc='outside lower center', ncols=3)
    return figure


def _curve(axes, curve: dict) -> None:
    points = [(m['step'], m['loss']) for m in curve['log'] if is_known(m.get('loss'))]
    axes.set_title(curve['title'], loc='left')
    if not points:
        axes.text(0.5, 0.5, 'no log', ha='center', transform=axes.transAxes, color=_GRAY)
        axes.set(xticks=[], yticks=[])
        return
    axes.set_xlabel('step')
    steps, losses = np.array(points, float).T
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    marker = ''
    if len(steps) < 3:
        axes.set_xticks(steps)
        marker = 'o'
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.plot(steps, losses, color='#A9C9E4', linewidth=0.8, marker=marker, label=_RAW)
    if len(steps) >= 10:
        axes.plot(steps, smooth(losses), color=COLOURS[0], linewidth=1.6, label=_SMOOTHED)
    if curve['chance'] is not None:
        axes.axhline(curve['chance'], color=COLOURS[1], linewidth=1.1, linestyle=(0, (4, 3)),
                     label=_CHANCE)
    axes.margins(x=0.02, y=0.08)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over about a twentieth of the curve.

    At the start, where a loss falls steeply, the window shrinks from both sides and follows it; at
    the end only from the right, so that the last value is an average and not one noisy entry.
    """
    index = np.arange(len(values))
    half = np.minimum(max(1, len(values) // 40), index)
    start, stop = index - half, np.minimum(index + half + 1, len(values))
    total = np.append(0, np.cumsum(values))
    return (total[stop] - total[start]) / (stop - start)
