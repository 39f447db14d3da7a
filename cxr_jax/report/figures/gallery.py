"""Radiographs beside their class activation maps, right and wrong ones of every name."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr_jax.report.figures.pictures import STYLE, new_figure, show_image

PER_NAME = 4
RIGHT, WRONG, OUTLINE = '#1B7837', '#C0261C', '#35E0F0'
_COLOURS = 'plasma'
# Inches: side of an image, gap inside a pair, gap between pairs, room for the two title lines.
_SIDE, _INNER, _GAP, _TITLE, _MARGIN, _LEGEND = 1.35, 0.03, 0.2, 0.4, 0.12, 0.52
_WHOSE = {
    True: 'the predicted class',
    False: 'the finding with the highest score',
}


def choose_examples(
    scores: np.ndarray, labels: np.ndarray, per_name: int = PER_NAME
) -> np.ndarray:
    """Indices of the images to show, name by name, right ones before wrong ones.

    scores [N, K]; labels [N] of classes, or [N, K] of findings (1, 0, -1). A class's images are
    those that are of it, right if it is predicted; a finding's are those in which its score is the
    highest of all, right if it is there (and not shown if that is not known). Half of the places
    go to right and half to wrong ones; places that one kind cannot fill go to the other. Within a
    kind the highest scores come first, equals by index. Choosing again among the chosen changes
    nothing, so only the chosen images need to be kept.
    """
    scores = np.asarray(scores)
    group, right = _groups(scores, np.asarray(labels))
    ranked = np.argsort(-scores.max(1), kind='stable')
    chosen = []
    for k in range(scores.shape[1]):
        mine = ranked[group[ranked] == k]
        good, bad = mine[right[mine]], mine[~right[mine]]
        n_bad = min(len(bad), max(per_name // 2, per_name - len(good)))
        chosen += [*good[: per_name - n_bad], *bad[:n_bad]]
    return np.array(chosen, int)


def _groups(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The name each image is shown under, -1 for none, and whether the model is right about it."""
    highest = scores.argmax(1)
    if labels.ndim == 1:
        return labels, highest == labels
    known = labels[np.arange(len(labels)), highest]
    return np.where(known >= 0, highest, -1), known == 1


def gallery_picture(
    images: np.ndarray,
    cams: np.ndarray,
    masks: np.ndarray | None,
    scores: np.ndarray,
    labels: np.ndarray,
    ail: np.ndarray,
    names: list[str],
) -> Figure:
    """A row of pairs (radiograph | CAM over it) for each class or finding that has images.

    images [N, S, S, C] in [0, 1]; cams [N, S, S] of the name with the highest score; masks
    [N, S, S] (lung > 0) or None; scores [N, K]; labels [N], or [N, K] of findings; ail [N] in
    [0, 1], NaN where undefined.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    chosen, group = choose_examples(scores, labels), _groups(scores, labels)[0]
    shown = [k for k in range(len(names)) if (group[chosen] == k).any()]
    height_of_row = _TITLE + _SIDE + _GAP
    pair = 2 * _SIDE + _INNER
    width = 2 * _MARGIN + PER_NAME * pair + (PER_NAME - 1) * _GAP
    height = _MARGIN + len(shown) * height_of_row + _LEGEND
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, height, constrained=False)

        def add_axes(x: float, y: float, w: float, h: float) -> Axes:
            return figure.add_axes((x / width, y / height, w / width, h / height))

        for row, k in enumerate(shown):
            y = height - _MARGIN - row * height_of_row - _TITLE - _SIDE
            for column, i in enumerate(chosen[group[chosen] == k]):
                x = _MARGIN + column * (pair + _GAP)
                left = add_axes(x, y, _SIDE, _SIDE)
                _radiograph(left, images[i])
                _titles(left, names, scores[i], labels[i], ail[i])
                right = add_axes(x + _SIDE + _INNER, y, _SIDE, _SIDE)
                _radiograph(right, images[i])
                _overlay(right, cams[i], None if masks is None else masks[i])
        axes = add_axes(_MARGIN, 0.3, 1.35, 0.09)
        _legend(figure, axes, (width, height), masks is not None, _WHOSE[labels.ndim == 1])
    return figure


def _radiograph(axes: Axes, image: np.ndarray) -> None:
    show_image(axes, image, 'bilinear')
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
    axes: Axes, names: list[str], scores: np.ndarray, label: np.ndarray, ail: float
) -> None:
    """Two lines: what is true of the image and its AIL; what the model finds."""
    highest = int(scores.argmax())
    if label.ndim == 0:
        right, true, verb = highest == label, names[label], 'predicted'
    else:
        right, verb = label[highest] == 1, 'highest'
        true = ', '.join(names[k] for k in np.flatnonzero(label == 1)) or 'none known'
    mark, colour = ('✓', RIGHT) if right else ('✗', WRONG)
    share = f'AIL {100 * ail:.0f} %' if np.isfinite(ail) else 'no AIL'
    lines = (
        (f'true: {_short(true)}  ·  {share}', '#202020', 15.5),
        (f'{mark} {verb}: {_short(names[highest])} ({100 * scores[highest]:.0f} %)', colour, 4.5),
    )
    for text, tint, rise in lines:
        axes.annotate(text, (0, 1), (0, rise), xycoords='axes fraction',
                      textcoords='offset points', fontsize=8.5, color=tint)


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + '…'


def _legend(
    figure: Figure, axes: Axes, size: tuple[float, float], outline: bool, whose: str
) -> None:
    width, height = size
    ramp = np.linspace(0, 1, 256)[None]
    axes.set_facecolor('0.5')
    axes.imshow(ramp, cmap=_COLOURS, alpha=_opacity(ramp), aspect='auto', extent=(0, 1, 0, 1))
    axes.set_xticks([0, 1], ['0', 'maximum of the map'])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=3)
    text = f'Pairs: radiograph, and the positive class activation map of {whose} over it'
    figure.text(2.3 / width, 0.28 / height, text, fontsize=8.5)
    if outline:
        handle = Line2D([], [], color=OUTLINE, linewidth=1.6, label='lung mask')
        figure.legend(handles=[handle], loc='lower right', fontsize=8.5, handlelength=1.4,
                      bbox_to_anchor=(1, 0.14 / height), borderaxespad=0.4)
