"""Radiographs beside their class activation maps, right and wrong ones of every class."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr_jax.report.figures.pictures import STYLE, new_figure

PER_CLASS = 4
RIGHT, WRONG, OUTLINE = '#1B7837', '#C0261C', '#35E0F0'
_COLOURS = 'plasma'
# Inches: side of an image, gap inside a pair, gap between pairs, room for the two title lines.
_SIDE, _INNER, _GAP, _TITLE, _MARGIN, _LEGEND = 1.35, 0.03, 0.2, 0.4, 0.12, 0.52


def choose_examples(
    probabilities: np.ndarray, labels: np.ndarray, per_class: int = PER_CLASS
) -> np.ndarray:
    """Indices of the images to show, class by class, right ones before wrong ones.

    Half of each class's places go to right and half to wrong ones; places that one kind cannot
    fill go to the other. Within a kind the most confident come first, equals by index. Choosing
    again among the chosen changes nothing, so only the chosen images need to be kept.
    """
    labels = np.asarray(labels)
    predictions, confidence = probabilities.argmax(1), probabilities.max(1)
    ranked = np.argsort(-confidence, kind='stable')
    chosen = []
    for c in range(probabilities.shape[1]):
        mine = ranked[labels[ranked] == c]
        right, wrong = mine[predictions[mine] == c], mine[predictions[mine] != c]
        n_wrong = min(len(wrong), max(per_class // 2, per_class - len(right)))
        chosen += [*right[: per_class - n_wrong], *wrong[:n_wrong]]
    return np.array(chosen, int)


def gallery_picture(
    images: np.ndarray,
    cams: np.ndarray,
    masks: np.ndarray | None,
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    ail: np.ndarray,
) -> Figure:
    """A row of pairs (radiograph | CAM over it) for each class that has images.

    images [N, S, S] in [0, 1]; cams [N, S, S] of the predicted class; masks [N, S, S] (lung > 0)
    or None; probabilities [N, K]; labels [N]; ail [N] in [0, 1], NaN where undefined.
    """
    chosen = choose_examples(probabilities, labels)
    shown = [c for c in range(len(classes)) if (labels[chosen] == c).any()]
    height_of_row = _TITLE + _SIDE + _GAP
    pair = 2 * _SIDE + _INNER
    width = 2 * _MARGIN + PER_CLASS * pair + (PER_CLASS - 1) * _GAP
    height = _MARGIN + len(shown) * height_of_row + _LEGEND
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, height, constrained=False)

        def add_axes(x: float, y: float, w: float, h: float) -> Axes:
            return figure.add_axes((x / width, y / height, w / width, h / height))

        for row, c in enumerate(shown):
            y = height - _MARGIN - row * height_of_row - _TITLE - _SIDE
            for column, i in enumerate(chosen[labels[chosen] == c]):
                x = _MARGIN + column * (pair + _GAP)
                left = add_axes(x, y, _SIDE, _SIDE)
                _radiograph(left, images[i])
                _titles(left, classes, probabilities[i], int(labels[i]), ail[i])
                right = add_axes(x + _SIDE + _INNER, y, _SIDE, _SIDE)
                _radiograph(right, images[i])
                _overlay(right, cams[i], None if masks is None else masks[i])
        _legend(figure, add_axes(_MARGIN, 0.3, 1.35, 0.09), width, height, masks is not None)
    return figure


def _radiograph(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, cmap='gray', vmin=0, vmax=1, interpolation='bilinear')
    axes.set_axis_off()


def _overlay(axes: Axes, cam: np.ndarray, mask: np.ndarray | None) -> None:
    """The positive part of the map, what AIL counts, over its maximum; opacity follows it."""
    evidence = np.clip(np.asarray(cam, float), 0, None)
    if evidence.max() > 0:
        evidence /= evidence.max()
        axes.imshow(evidence, cmap=_COLOURS, vmin=0, vmax=1, alpha=_opacity(evidence),
                    interpolation='bilinear')
    if mask is not None and 0 < np.count_nonzero(mask) < np.size(mask):
        axes.contour(np.asarray(mask) > 0, levels=[0.5], colors=OUTLINE, linewidths=0.9)


def _opacity(evidence: np.ndarray) -> np.ndarray:
    # A steep start shows low values, which AIL counts too, and leaves zeros untouched.
    return 0.65 * np.sqrt(evidence)


def _titles(
    axes: Axes, classes: list[str], probabilities: np.ndarray, label: int, ail: float
) -> None:
    predicted = int(probabilities.argmax())
    mark, colour = ('✓', RIGHT) if predicted == label else ('✗', WRONG)
    share = f'AIL {100 * ail:.0f} %' if np.isfinite(ail) else 'no AIL'
    lines = (
        (f'true: {_short(classes[label])}  ·  {share}', '#202020', 15.5),
        (f'{mark} predicted: {_short(classes[predicted])} ({100 * probabilities[predicted]:.0f} %)',
         colour, 4.5),
    )
    for text, tint, rise in lines:
        axes.annotate(text, (0, 1), (0, rise), xycoords='axes fraction',
                      textcoords='offset points', fontsize=8.5, color=tint)


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + '…'


def _legend(figure: Figure, axes: Axes, width: float, height: float, outline: bool) -> None:
    ramp = np.linspace(0, 1, 256)[None]
    axes.set_facecolor('0.5')
    axes.imshow(ramp, cmap=_COLOURS, alpha=_opacity(ramp), aspect='auto', extent=(0, 1, 0, 1))
    axes.set_xticks([0, 1], ['0', 'maximum of the map'])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=3)
    text = 'Pairs: radiograph, and the positive class activation map of the predicted class over it'
    figure.text(2.3 / width, 0.28 / height, text, fontsize=8.5)
    if outline:
        handle = Line2D([], [], color=OUTLINE, linewidth=1.6, label='lung mask')
        figure.legend(handles=[handle], loc='lower right', fontsize=8.5, handlelength=1.4,
                      bbox_to_anchor=(1, 0.14 / height), borderaxespad=0.4)
