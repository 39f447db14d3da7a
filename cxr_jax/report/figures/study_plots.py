"""Pictures of a study: bars of every curriculum with intervals, and the curves of a search."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from cxr_jax.report.figures.pictures import COLOURS, STYLE, new_figure
from cxr_jax.report.formats import is_known, plain
from cxr_jax.report.measures import Measure
from cxr_jax.report.study_grid import Page, Row
from cxr_jax.report.study_searches import Search, batches_differ, candidate, judged_at

_GRAY = '#707070'
_DASHED = (0, (4, 3))
_BAR = 0.15  # inches
_HEADINGS = {
    'baseline': 'baselines', 'single': 'one task', 'pair': 'two tasks', 'triple': 'three tasks',
    'longer': 'four and more tasks',
}  # fmt: skip
_Place = tuple[str, str]  # level of the row, column


@dataclasses.dataclass(frozen=True)
class Bars:
    """What a picture of bars shows: a figure of every row in every column."""

    page: Page
    figures: Mapping[_Place, dict]
    measure: Measure  # its chance level is a line through all bars
    label: str
    marks: Mapping[_Place, float | None] = dataclasses.field(default_factory=dict)  # at a bar each
    mark_label: str = ''

    @property
    def scale(self) -> int:
        return 100 if self.measure.unit == 'percent' else 1

    def limit(self) -> float:
        """Where the axis ends."""
        values = [
            x for f in self.figures.values() for x in (f['value'], f['high'], *f['per_seed'])
        ]
        values += [*self.marks.values(), self.measure.chance]
        highest = max(filter(is_known, values), default=1.0)
        return min(1.04 * highest, 1.0) if highest <= 1 else 1.04 * highest


def bars_picture(bars: Bars) -> Figure:
    """A group of horizontal bars a row, one a column, with intervals and single seeds."""
    rows, columns = bars.page.rows, bars.page.columns
    centres, headings, top = {}, {}, 0.0
    for i, row in enumerate(rows):
        if row.kind and (i == 0 or rows[i - 1].kind != row.kind):
            headings[top + 0.6] = _HEADINGS.get(row.kind, row.kind)
            top += 1.5
        centres[row.level] = top + len(columns) / 2
        top += len(columns) + 0.6
    chance = bars.measure.chance
    # The values stand to the right of the axes, so the bars keep the whole width.
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.2, _BAR * top + 1.2)
        axes = figure.add_subplot()
        for row in rows:
            for i, column in enumerate(columns):
                place = centres[row.level] + i - (len(columns) - 1) / 2
                _bar(axes, place, bars, (row.level, column), COLOURS[i % len(COLOURS)])
        if is_known(chance):
            axes.axvline(bars.scale * chance, color='black', linewidth=1, linestyle=_DASHED,
                         zorder=1.5)  # fmt: skip
        _axes_of_bars(axes, rows, centres, headings)
        axes.set(ylim=(top, 0), xlim=(0, bars.scale * bars.limit()), xlabel=bars.label)
        handles = _handles(bars)
        if handles:
            figure.legend(handles=handles, loc='outside lower center', ncols=min(len(handles), 5))
    return figure


def _handles(bars: Bars) -> list:
    figures = bars.figures.values()
    handles = [
        Patch(color=COLOURS[i % len(COLOURS)], label=column)
        for i, column in enumerate(bars.page.columns)
        if column
    ]
    if any(is_known(f['low']) for f in figures):
        handles.append(Line2D([], [], color='#202020', linewidth=1, label='95 % interval'))
    if any(len(f['per_seed']) > 1 for f in figures):
        handles.append(_dot('single seeds'))
    if any(is_known(mark) for mark in bars.marks.values()):
        handles.append(Line2D([], [], color='black', marker='|', markersize=9,
                              markeredgewidth=2, linestyle='', label=bars.mark_label))  # fmt: skip
    if is_known(bars.measure.chance):
        handles.append(Line2D([], [], color='black', linewidth=1, linestyle=_DASHED,
                              label='chance'))  # fmt: skip
    return handles


def _dot(label: str) -> Line2D:
    return Line2D([], [], color='white', markeredgecolor='#202020', marker='o', markersize=4,
                  markeredgewidth=0.7, linestyle='', label=label)  # fmt: skip


def _bar(axes: Axes, place: float, bars: Bars, key: _Place, colour: str) -> None:
    figure, mark, scale = bars.figures[key], bars.marks.get(key), bars.scale
    if not is_known(figure['value']):
        axes.text(0.003, place, 'no value', transform=axes.get_yaxis_transform(), va='center',
                  color=_GRAY, fontsize=6.5)  # fmt: skip
        return
    value = scale * figure['value']
    axes.barh(place, value, height=0.86, color=colour, alpha=0.75, linewidth=0)
    if is_known(figure['low']):
        low, high = scale * figure['low'], scale * figure['high']
        axes.plot([low, high], [place, place], color='#202020', linewidth=1, clip_on=False)
    if len(figure['per_seed']) > 1:
        seeds = [scale * x for x in figure['per_seed'] if is_known(x)]
        axes.plot(seeds, [place] * len(seeds), 'o', color='white', markeredgecolor='#202020',
                  markersize=2.8, markeredgewidth=0.6, clip_on=False)  # fmt: skip
    if is_known(mark):
        axes.plot([scale * mark] * 2, [place - 0.5, place + 0.5], color='black', linewidth=2,
                  solid_capstyle='butt')  # fmt: skip
    text = f'{value:.1f}' if scale == 100 else f'{value:.3f}'
    axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va='center',
              fontsize=6.5, color='#202020')  # fmt: skip


def _axes_of_bars(
    axes: Axes, rows: Sequence[Row], centres: Mapping[str, float], headings: Mapping[float, str]
) -> None:
    axes.set_yticks([centres[row.level] for row in rows], [row.title for row in rows])
    axes.tick_params(axis='y', length=0)
    for place, text in headings.items():
        axes.annotate(text, (0, place), (-4, 0), xycoords=('axes fraction', 'data'),
                      textcoords='offset points', ha='right', va='center', fontsize=8,
                      fontweight='bold')  # fmt: skip
        if place > 1:
            axes.axhline(place - 0.75, color='#C8C8C8', linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.grid(True, color='#E4E4E4', linewidth=0.6)
    axes.set_axisbelow(True)


def search_picture(search: Search) -> Figure:
    """Left: the metric each candidate was judged by; right: the metric over the epochs."""
    trials = search.record['trials']
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.4, max(3.1, 0.17 * len(trials) + 1.4))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        better = 'higher' if search.record['higher_is_better'] else 'lower'
        left.set(xlabel='learning rate', ylabel=f'validation {search.metric}\n({better} is better)')
        right.set(xlabel='epoch')
        _values(left, search)
        _curves(right, search)
        for axes in (left, right):
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axes.grid(True, color='#E8E8E8', linewidth=0.6)
            axes.set_axisbelow(True)
            if search.unit == 'percent':
                axes.yaxis.set_major_formatter(lambda y, _: f'{100 * y:g} %')
        figure.suptitle(
            f'{search.title}  ({search.place}; {search.record["protocol"]})',
            fontsize=10, x=0.01, ha='left',
        )  # fmt: skip
    return figure


def _values(axes: Axes, search: Search) -> None:
    """Only values after the same number of epochs are joined: others do not compare."""
    trials = search.record['trials']
    if log_spaced([trial['lr'] for trial in trials]):
        axes.set_xscale('log')
        # The candidates themselves: powers of ten alone would mostly miss the axis.
        rates = sorted({trial['lr'] for trial in trials})
        step = -(-len(rates) // 6)
        axes.set_xticks(rates[::step], [f'{rate:.2g}' for rate in rates[::step]])
        axes.xaxis.set_minor_locator(NullLocator())
    with_batch, series, diverged, chosen = batches_differ(search.record), {}, [], []
    for trial in sorted(trials, key=lambda t: (t['batch_size'], t['lr'])):
        last_epochs, last_value = judged_at(trial)
        if not is_known(last_value):
            diverged.append(candidate(trial, with_batch))
        elif trial['chosen']:
            chosen.append((trial['lr'], last_value))
        for epochs, value in zip(trial['epochs'], trial['values'], strict=True):
            if is_known(value) and (epochs in trial['rungs'] or epochs == last_epochs):
                series.setdefault((trial['batch_size'], epochs), []).append((trial['lr'], value))
    last = max((epochs for _, epochs in series), default=0)
    batches = sorted({batch for batch, _ in series})
    for (batch, epochs), values in series.items():
        label = f'batch {batch}, ' if with_batch else ''
        axes.plot(*zip(*values, strict=True), 'o-', markersize=4, linewidth=0.9,
                  color=COLOURS[batches.index(batch) % len(COLOURS)],
                  alpha=1 if epochs == last else 0.4,
                  label=f'{label}after {plain(epochs)} epochs')  # fmt: skip
    if chosen:
        axes.plot(*zip(*chosen, strict=True), 'o', markersize=10, markerfacecolor='none',
                  markeredgecolor=COLOURS[1], markeredgewidth=1.6, label='chosen')  # fmt: skip
    if diverged:
        axes.set_title(f'diverged: {", ".join(diverged)}', fontsize=8, color=_GRAY, loc='left')
    if series:
        axes.legend(loc='best', fontsize=7)


def _curves(axes: Axes, search: Search) -> None:
    trials = sorted(search.record['trials'], key=lambda t: (t['lr'], t['batch_size']))
    with_batch = batches_differ(search.record)
    tints = matplotlib.colormaps['viridis'](np.linspace(0, 0.92, len(trials)))
    for trial, tint in zip(trials, tints, strict=True):
        known = [(e, v) for e, v in zip(trial['epochs'], trial['values'], strict=True)
                 if is_known(v)]  # fmt: skip
        label = candidate(trial, with_batch) + (' (chosen)' if trial['chosen'] else '')
        axes.plot(*zip(*known, strict=True) if known else ([], []), marker='o', markersize=2.5,
                  color=tint, linewidth=2.4 if trial['chosen'] else 1, label=label)  # fmt: skip
    for rung in sorted({rung for trial in trials for rung in trial['rungs']}):
        axes.axvline(rung, color=_GRAY, linewidth=0.7, linestyle=_DASHED, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5), max(high, low + 1))  # at least one epoch wide
    axes.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), fontsize=7,
                title='learning rate', title_fontsize=7)  # fmt: skip


def log_spaced(values: Sequence[float]) -> bool:
    """Whether the steps between the logarithms are more even than those between the values."""
    values = np.unique(np.asarray(values, float))
    if len(values) < 2 or values[0] <= 0:
        return False
    if len(values) == 2:
        return bool(values[1] >= 10 * values[0])
    steps, ratios = np.diff(values), np.diff(np.log(values))
    return bool(ratios.std() / ratios.mean() < steps.std() / steps.mean())
