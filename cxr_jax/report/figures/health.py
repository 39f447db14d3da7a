"""What the monitors of a run's stages saw, as one matplotlib figure."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.ticker import MaxNLocator

from cxr_jax.report.figures.pictures import COLOURS, STYLE, new_figure
from cxr_jax.report.formats import is_known
from cxr_jax.report.measures import Measure

_SHADE = '#D55E0022'
# Title of a panel -> the rows it shows, and of them field -> (label, colour).
_PANELS = {
    'spread (1: any direction)': ('looks', {'std': ('standard deviation', COLOURS[0])}),
    'effective rank': ('looks', {
        'centred_rank': ('centred', COLOURS[0]), 'rank': ('as they are (RankMe)', COLOURS[5]),
    }),
    'cosine similarity': ('looks', {
        'positive': ('views of one image', COLOURS[2]),
        'negative': ('different images', COLOURS[1]),
    }),
    'probe': ('probes', {
        'ridge': ('ridge probe', COLOURS[0]), 'knn': ('nearest neighbours', COLOURS[4]),
    }),
}  # fmt: skip


def health_picture(
    stages: Sequence[str],
    watched: Sequence[Mapping[str, Sequence[dict]]],
    measure: Measure | None = None,
):
    """A row of panels for each stage, with a line for each of its folds.

    stages: their ids, of folds several times; watched: {'looks', 'probes'}, rows with 'epoch', of
    each. measure: of the probes; there is a panel of them if there are any.
    """
    names = list(dict.fromkeys(stages))
    kinds = [kind for kind in ('looks', 'probes') if any(each[kind] for each in watched)]
    panels = {title: panel for title, panel in _PANELS.items() if panel[0] in kinds}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.5 * len(panels) + 0.6, 1.8 * len(names) + 0.7)
        grid = figure.subplots(len(names), len(panels), squeeze=False)
        for line, name in zip(grid, names, strict=True):
            own = [each for stage, each in zip(stages, watched, strict=True) if stage == name]
            for axes, (title, (kind, fields)) in zip(line, panels.items(), strict=True):
                _panel(axes, [each[kind] for each in own], fields)
                if title == 'probe' and measure:
                    title = measure.title
                    if measure.chance is not None:
                        axes.axhline(measure.chance, color='#707070', linewidth=0.9,
                                     linestyle=(0, (4, 3)), label='chance')  # fmt: skip
                if axes in grid[0]:
                    axes.set_title(title, loc='left')
            line[0].set_ylabel(name)
        for axes in grid[-1]:
            axes.set_xlabel('epoch')
        drawn = {entry.get_label(): entry for axes in grid.flat for entry in axes.lines}
        drawn = {label: entry for label, entry in drawn.items() if not label.startswith('_')}
        figure.legend(handles=list(drawn.values()), loc='outside lower center', ncols=4)
    return figure


def _panel(axes, folds: Sequence[Sequence[dict]], fields: Mapping[str, tuple[str, str]]) -> None:
    for rows in folds:
        for field, (label, colour) in fields.items():
            points = [(row['epoch'], row[field]) for row in rows if is_known(row.get(field))]
            if points:
                marker = 'o' if len(points) < 3 else ''
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, marker=marker,
                          markersize=3, label=label)  # fmt: skip
        for row, after in zip(rows, [*rows[1:], None], strict=True):
            if row.get('alarms'):
                end = after['epoch'] if after else row['epoch']
                axes.axvspan(row['epoch'], end, color=_SHADE, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.03, y=0.12)
