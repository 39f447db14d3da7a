"""The results of a study in Markdown tables: accuracy, classes, attention, comparisons, plan.

A missing number is '-', and its reason stands below the table.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from cxr_jax.report.findings import REGIONS
from cxr_jax.report.formats import NOT_AVAILABLE, duration, interval, is_known, percent, plain
from cxr_jax.report.page import table

MISSING = '-'
KINDS = ('baseline', 'single', 'pair', 'triple', 'longer')
# What to measure attention inside of -> its figures in the means, the title of its table.
INSIDE = {
    'attention': ('ail', 'lung_area', 'AIL', 'lung area'),
    'boxes': ('box_attention', 'box_area', 'inside boxes', 'box area'),
}
PLAN = {
    'curricula': 'curricula',
    'runs': 'runs (curriculum × region × class set × seed)',
    'stages': 'stages of all runs together',
    'distinct': 'distinct stages',
    'shared': 'trainings saved by sharing',
    'trained': 'trained by this study',
    'found': 'found finished in the store',
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One curriculum of a class set in every region."""

    name: str
    title: str
    kind: str
    labels: dict[str, str]  # region -> order label
    means: dict[str, dict]  # region -> its entry of study['means']

    def figure(self, region: str, *path: str | int) -> dict:
        """The figure at `path` of the means; one without a value if there is none."""
        found, reason = self.means.get(region), 'no finished run'
        for key in path:
            found, reason = (found[key], 'not measured') if found else (None, reason)
        nothing = {'value': None, 'low': None, 'high': None, 'reason': reason}
        return found or nothing | {'per_seed': [], 'sd': None}

    def seeds(self, region: str) -> list[int]:
        return self.means.get(region, {}).get('seeds', [])


def class_sets(study: dict) -> list[str]:
    """The class sets that runs were trained on, in order."""
    return list(dict.fromkeys(run['class_set'] for run in study['curricula']))


def rows_of(study: dict, class_set: str) -> list[Row]:
    """Curricula of a class set, baselines first, then by the number of tasks."""
    runs = [run for run in study['curricula'] if run['class_set'] == class_set]
    means = [mean for mean in study['means'] if mean['class_set'] == class_set]
    rows = []
    for name in dict.fromkeys(run['name'] for run in runs):
        mine = [run for run in runs if run['name'] == name]
        rows.append(Row(
            name=name,
            title=title_of(mine[0]),
            kind=mine[0]['kind'],
            labels={run['region']: run['label'] for run in reversed(mine)},
            means={mean['region']: mean for mean in means if mean['name'] == name},
        ))  # fmt: skip
    return sorted(rows, key=lambda row: KINDS.index(row.kind))


def title_of(run: dict) -> str:
    """'moco → swav'; the name of a baseline."""
    return run['name'] if run['kind'] == 'baseline' else ' → '.join(run['tasks'])


def tests_of(study: dict, class_set: str) -> list[dict]:
    """What was found on the test images, of each run of a class set that has it."""
    runs = [run for run in study['curricula'] if run['class_set'] == class_set]
    return [run['test'] for run in runs if run['test']]


def show(text: str) -> str:
    return MISSING if text == NOT_AVAILABLE else text


def points(x: float | None) -> str:
    """A difference of fractions in percentage points: 0.0123 -> '+1.2'."""
    return f'{100 * x:+.1f}' if is_known(x) else MISSING


def point_interval(figure: dict) -> str:
    low, high = figure['low'], figure['high']
    return f'{points(low)} to {points(high)}' if is_known(low) and is_known(high) else MISSING


def p_value(x: float | None) -> str:
    if not is_known(x):
        return MISSING
    return '< 0.001' if x < 0.001 else f'{x:.3f}'


def remarks(figures: Iterable[tuple[str, dict]]) -> list[str]:
    """Why figures are missing or restricted, each reason once with all it concerns."""
    by_reason = {}
    for title, figure in figures:
        if figure['reason']:
            by_reason.setdefault(figure['reason'], []).append(title)
    lines = [f'- {_listed(titles)}: {reason}.' for reason, titles in by_reason.items()]
    return ['\n'.join(lines)] if lines else []


def _listed(titles: Sequence[str], most: int = 6) -> str:
    titles = list(dict.fromkeys(titles))
    more = f' and {len(titles) - most} more' if len(titles) > most else ''
    return ', '.join(titles[:most]) + more


def summary_table(study: dict, class_set: str) -> str:
    """Balanced accuracy of every curriculum in every region, side by side (Table 4.14)."""
    regions = study['regions']
    return table(
        ['curriculum', *regions],
        [
            [row.title, *(
                show(percent(row.figure(region, 'balanced_accuracy')['value']))
                for region in regions
            )]
            for row in rows_of(study, class_set)
        ],
    )  # fmt: skip


def accuracy_table(study: dict, class_set: str, region: str) -> list[str]:
    """Balanced accuracy with its interval, spread and order label (Tables 4.8 to 4.13)."""
    header = ['curriculum', 'kind', 'order', 'balanced accuracy', '95 % interval',
              'SD of seeds (points)', 'seeds']  # fmt: skip
    lines, figures = [], []
    for row in rows_of(study, class_set):
        figure = row.figure(region, 'balanced_accuracy')
        figures.append((row.title, figure))
        sd = figure['sd']
        lines.append([
            row.title,
            row.kind,
            row.labels.get(region) or MISSING,
            show(percent(figure['value'])),
            show(interval(figure)),
            f'{100 * sd:.1f}' if is_known(sd) else MISSING,
            plain(len(row.seeds(region))),
        ])  # fmt: skip
    return [_heading(region), table(header, lines), *remarks(figures)]


def class_table(study: dict, class_set: str, region: str) -> list[str]:
    """Accuracy of every class with its interval (Tables 4.5 to 4.7)."""
    tests = tests_of(study, class_set)
    classes = [row['name'] for row in tests[0]['per_class']] if tests else []
    lines, figures = [], []
    for row in rows_of(study, class_set):
        mine = [row.figure(region, 'class_accuracy', c) for c in range(len(classes))]
        figures += [(f'{row.title}, {name}', f) for name, f in zip(classes, mine, strict=True)]
        cells = [f'{show(percent(f["value"]))} ({show(interval(f))})' for f in mine]
        lines.append([row.title, *cells])
    header = [f'{name} (95 % interval)' for name in classes]
    return [_heading(region), table(['curriculum', *header], lines), *remarks(figures)]


def attention_table(study: dict, class_set: str, region: str, part: str) -> list[str]:
    """AIL beside the lung-area fraction (Table 4.15), or the same of the lesion boxes."""
    share, area, title, area_title = INSIDE[part]
    header = ['curriculum', 'images', title, '95 % interval', area_title,
              f'{title} − {area_title} (points)', '95 % interval']  # fmt: skip
    lines, figures = [], []
    for row in rows_of(study, class_set):
        inside, outline, excess = (row.figure(region, part, key) for key in (share, area, 'excess'))
        figures.append((row.title, inside))
        lines.append([
            row.title,
            plain(((row.means.get(region) or {}).get(part) or {}).get('images', 0)),
            show(percent(inside['value'])),
            show(interval(inside)),
            show(percent(outline['value'])),
            points(excess['value']),
            point_interval(excess),
        ])  # fmt: skip
    return [_heading(region), table(header, lines), *remarks(figures)]


def has_attention(study: dict, part: str) -> bool:
    return any((mean[part] or {}).get('images') for mean in study['means'])


def comparison_blocks(study: dict) -> Iterator[str]:
    """The paired tests, one table a region, with the number of comparisons."""
    found = study['comparisons']
    if not found or not found['comparisons']:
        yield 'There is nothing to compare: no curriculum has a reference in its region.'
        return
    titles = {run['name']: title_of(run) for run in study['curricula']}
    yield (
        f'Statistic: {found["statistic"]}, first minus second model, on the same test images; '
        f'{plain(found["resamples"])} bootstrap resamples of patients. p-value: '
        f'{found["p_value"]}. They tell whether these trained models differ on other patients; '
        'whether models trained from other seeds would, the SD of seeds tells.'
    )
    header = ['curriculum', 'against', 'classes', 'difference (points)', '95 % interval', 'p',
              'p (Holm)', 'seeds']  # fmt: skip
    for family in found['families']:
        mine = [row for row in found['comparisons'] if row['region'] == family['region']]
        lines = [
            [
                titles[row['name']],
                _reference(row, titles),
                row['class_set'],
                points(row['difference']['value']),
                point_interval(row['difference']),
                p_value(row['p']),
                p_value(row['p_holm']),
                plain(len(row['seeds'])),
            ]
            for row in mine
        ]
        number = plain(family['comparisons'])
        yield f"{_heading(family['region'])} Holm's correction over {number} comparisons."
        yield table(header, lines)
        yield from remarks(
            (f'{titles[row["name"]]} against {_reference(row, titles)}', row['difference'])
            for row in mine
        )


def _reference(row: dict, titles: dict[str, str]) -> str:
    title = titles[row['reference']]
    return title if row['role'] == row['reference'] else f'{title} ({row["role"]})'


def plan_table(plan: dict) -> str:
    """Stages planned, shared, trained and found."""
    lines = [[text, show(plain(plan.get(key)))] for key, text in PLAN.items()]
    for key, text in (('estimated_seconds', 'estimated time'), ('seconds', 'time taken')):
        if key in plan:
            lines.append([text, show(duration(plan[key]))])
    return table(['the plan', ''], lines)


def runs_table(study: dict, galleries: Iterable[str]) -> str:
    """Every run with links to its report, and to its gallery if listed (by its directory)."""
    header = ['run', 'region', 'classes', 'seed', 'balanced accuracy', '95 % interval',
              'stages trained', 'report', 'gallery']  # fmt: skip
    galleries, lines = set(galleries), []
    for run in study['curricula']:
        folder = run['directory']
        figure = run['test']['balanced_accuracy'] if run['test'] else None
        trained = sum(not stage['reused'] for stage in run['stages'])
        lines.append([
            title_of(run), run['region'], run['class_set'], str(run['seed']),
            show(percent(figure['value'])) if figure else MISSING,
            show(interval(figure)) if figure else MISSING,
            f'{trained} of {len(run["stages"])}',
            f'[report]({quote(folder)}/results.md)',
            f'[gallery]({quote(folder)}/gallery.png)' if folder in galleries else MISSING,
        ])  # fmt: skip
    return table(header, lines)


def _heading(region: str) -> str:
    return f'**{region}** ({REGIONS.get(region, region)}).'
