"""What the monitors of a run's stages saw, as one matplotlib figure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_jax.report.figures.pictures import COLOURS, STYLE, new_figure
from cxr_jax.report.formats import is_known
from cxr_jax.report.measures import Measure

_GRAY, _SHADE = '#707070', '#D55E0022'


class _Panel(NamedTuple):
    title: str
    rows: str  # 'looks' or 'probes'
    fields: dict  # of a row -> (label, colour)
    top: float | None = None  # that the axis reaches at least; None: what the values need


_PANELS = (
    _Panel('standard deviation', 'looks', {'std': ('', COLOURS[0])}, 1.0),
    _Panel('effective rank', 'looks', {
        'centred_rank': ('centred', COLOURS[0]), 'rank': ('RankMe', COLOURS[5]),
    }),
    _Panel('cosine similarity', 'looks', {
        'positive': ('views of one image', COLOURS[2]),
        'negative': ('different images', COLOURS[1]),
    }, 1.0),
    _Panel('frozen features', 'probes', {
        'ridge': ('ridge probe', COLOURS[0]), 'knn': ('nearest neighbours', COLOURS[4]),
    }),
)  # fmt: skip


def health_picture(
    stages: Sequence[str],
    watched: Sequence[Mapping[str, Sequence[dict]]],
    measure: Measure | None = None,
) -> Figure:
    """A row of panels for each stage, with a line for each of its folds; alarms are shaded.

    stages: their ids, of folds several times; watched: {'looks', 'probes'} of each, rows with
    'epoch'. measure: of the probes; there is a panel of them if there are any.
    """
    names = list(dict.fromkeys(stages))
    panels = [panel for panel in _PANELS if any(each[panel.rows] for each in watched)]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.5 * len(panels) + 0.3, 1.75 * len(names) + 0.5)
        grid = figure.subplots(len(names), len(panels), squeeze=False)
        for line, name in zip(grid, names, strict=True):
            own = [each for stage, each in zip(stages, watched, strict=True) if stage == name]
            for axes, panel in zip(line, panels, strict=True):
                _draw(axes, panel, [each[panel.rows] for each in own], measure)
            line[0].set_ylabel(name)
        for axes, panel in zip(grid[0], panels, strict=True):
            probes = measure and panel.rows == 'probes'
            axes.set_title(f'{measure.title}, frozen' if probes else panel.title, loc='left')
            if len(panel.fields) > 1 and axes.lines:
                axes.legend(loc='best', handlelength=1.2, fontsize=7)
        for axes in grid[-1]:
            axes.set_xlabel('epoch')
    return figure


def _draw(axes, panel: _Panel, folds: Sequence[Sequence[dict]], measure: Measure | None) -> None:
    for rows, (field, (label, colour)) in itertools.product(folds, panel.fields.items()):
        points = [(row['epoch'], row[field]) for row in rows if is_known(row.get(field))]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, markersize=3,
                      marker='o' if len(points) < 4 else '',
                      label=label if rows is folds[0] else '_')  # fmt: skip
    if not axes.lines:
        axes.text(0.5, 0.5, 'not looked at', ha='center', transform=axes.transAxes, color=_GRAY)
        axes.set(xticks=[], yticks=[])
        return
    for row, after in itertools.chain.from_iterable(map(itertools.pairwise, folds)):
        if row.get('alarms'):
            axes.axvspan(row['epoch'], after['epoch'], color=_SHADE, linewidth=0)
    if panel.rows == 'probes':
        if measure and is_known(measure.chance):
            axes.axhline(measure.chance, color=_GRAY, linewidth=0.9, linestyle=(0, (4, 3)),
                         label='chance')  # fmt: skip
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
    else:
        # From 0, so that what hardly changes looks like it.
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0), max(high * 1.05, panel.top or 0))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.03)
