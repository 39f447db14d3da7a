"""The learning-rate searches of a study: each once, and the tables of what they tried."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

from cxr_jax.report.blocks import Block, Link, Table, Text, literal, table
from cxr_jax.report.formats import is_known, number, plain
from cxr_jax.report.study_grid import other_axes, slug
from cxr_jax.report.study_tables import dash

PROTOCOLS = {
    'thesis': 'every candidate trained for the search epochs, the best one continued',
    'sampled': 'drawn candidates trained briefly on a part of the data, then a full training',
    'halving': 'successive halving: a third of the candidates survives each rung',
}


@dataclasses.dataclass(frozen=True)
class Search:
    """One stage's search; `record` is its search.json. All texts are data, none is marked."""

    path: tuple[str, ...]  # the stages up to and with it
    levels: tuple[str, ...]  # of the axes that are not the rows', in the first cell that has it
    seed: int
    record: dict
    metric: str = ''
    unit: str = 'percent'
    row: str = ''  # title of its row, where other searches have the same path
    fold: int | None = None

    @property
    def title(self) -> str:
        """'rot → moco'."""
        return ' → '.join(self.path)

    @property
    def training(self) -> list[str]:
        """['seed 0'], with the fold and, where the path does not tell it apart, the row."""
        fold = [] if self.fold is None else [f'fold {self.fold + 1}']
        return [*([self.row] if self.row else []), f'seed {self.seed}', *fold]

    @property
    def place(self) -> str:
        """'full, 4 classes, seed 0'."""
        return ', '.join([*self.levels, *self.training])

    @property
    def picture(self) -> str:
        fold = [] if self.fold is None else [f'fold{self.fold + 1}']
        parts = ['search', *self.levels, self.row, *self.path, f'seed{self.seed}', *fold]
        return slug(*filter(None, parts)) + '.png'

    def show(self, value: float | None) -> str:
        return dash(number(value, self.unit))


def searches_of(study: dict) -> list[Search]:
    """Every search once, though several cells share its stage."""
    found, rows = {}, {}
    for cell in study['cells']:
        by_key = {stage['key']: stage for stage in cell['stages']}
        levels = tuple(cell['levels'][axis] for axis in other_axes(study))
        for stage in cell['stages']:
            if not stage['search'] or stage['key'] in found:
                continue
            record, path = stage['search'], _path(stage, by_key)
            metric, unit = _metric(study, record['metric'])
            found[stage['key']] = Search(
                path, levels, cell['seed'], record, metric, unit, fold=stage['fold']
            )
            rows[stage['key']] = cell['title']
    times = Counter((search.title, search.place) for search in found.values())
    told_apart = [
        dataclasses.replace(search, row=rows[key])
        if times[search.title, search.place] > 1
        else search
        for key, search in found.items()
    ]
    order = [study['axes'][axis] for axis in other_axes(study)]

    def place(search: Search) -> list[int]:
        return [levels.index(own) for levels, own in zip(order, search.levels, strict=True)]

    return sorted(told_apart, key=lambda search: (place(search), len(search.path), search.path))


def _path(stage: dict, by_key: Mapping[str, dict]) -> tuple[str, ...]:
    """The stages that lead to it, and its own."""
    path = [stage['stage']]
    while stage['parent_key'] in by_key:
        stage = by_key[stage['parent_key']]
        path.insert(0, stage['stage'])
    return tuple(path)


def _metric(study: dict, name: str) -> tuple[str, str]:
    """Title and unit of what trials are judged by; the loss and accuracy are not measures."""
    if name in study['measures']:
        shown = study['measures'][name]
        return shown['title'], shown['unit']
    return name.replace('_', ' '), 'decimal' if name == 'loss' else 'percent'


def judged_at(trial: dict) -> tuple[float | None, float | None]:
    """Epochs and value by which a trial was judged last: those of its last rung."""
    reached = [
        (epoch, value)
        for epoch, value in zip(trial['epochs'], trial['values'], strict=True)
        if not trial['rungs'] or epoch <= trial['rungs'][-1]
    ]
    return reached[-1] if reached else (None, None)


def candidate(trial: dict, with_batch: bool) -> str:
    """'0.058', or with its batch size."""
    rate = f'{trial["lr"]:.3g}'
    return f'{rate} (batch {plain(trial["batch_size"])})' if with_batch else rate


def batches_differ(record: dict) -> bool:
    return len({trial['batch_size'] for trial in record['trials']}) > 1


def search_blocks(study: dict, folder: str) -> list[Block]:
    """One table for all searches over the same candidates; `folder` holds the pictures."""
    searches = searches_of(study)
    if not searches:
        return [Text('No stage of this study searched its learning rate.')]
    total = sum(search.record['total_epochs'] for search in searches)
    blocks: list[Block] = [Text(
        f'{plain(len(searches))} searches, {plain(total)} epochs in all. A cell is the validation '
        'metric at the end of the trial (with the epochs where trials end at different ones); '
        'the chosen candidate is bold.'
    )]  # fmt: skip
    groups = {}
    for search in searches:
        groups.setdefault(_group(search), []).append(search)
    for group in groups.values():
        blocks += [Text(_group_heading(group[0])), _group_table(group, folder)]
    return blocks


def _group(search: Search) -> tuple:
    record = search.record
    candidates = tuple((trial['lr'], trial['batch_size']) for trial in record['trials'])
    return search.levels, record['protocol'], record['metric'], record['epochs'], candidates


def _group_heading(search: Search) -> str:
    record = search.record
    better = 'higher' if record['higher_is_better'] else 'lower'
    protocol = PROTOCOLS.get(record['protocol'], '')
    batches = {trial['batch_size'] for trial in record['trials']}
    place = [literal(level) for level in search.levels]
    place += [f'batch {plain(*batches)}'] if len(batches) == 1 else []
    where = f'**{", ".join(place)}.** ' if place else ''
    return (
        f'{where}Metric: {literal(search.metric)} ({better} is better). Protocol: '
        f'{literal(record["protocol"])} ({protocol}), {plain(record["epochs"])} epochs.'
    )


def _group_table(group: list[Search], folder: str) -> Table:
    trials = group[0].record['trials']
    with_batch = batches_differ(group[0].record)
    one_seed = len({(search.seed, search.fold) for search in group}) == 1
    titles = [
        (search.title, [search.row] * bool(search.row) if one_seed else search.training)
        for search in group
    ]
    lines = []
    for search, (title, more) in zip(group, titles, strict=True):
        title = f'{title} ({", ".join(more)})' if more else title
        judged = [judged_at(trial) for trial in search.record['trials']]
        uneven = len({epochs for epochs, _ in judged}) > 1
        cells = []
        for trial, (epochs, value) in zip(search.record['trials'], judged, strict=True):
            text = search.show(value) if is_known(value) else 'diverged'
            text = f'**{text}**' if trial['chosen'] else text
            cells.append(f'{text} ({plain(epochs)})' if uneven and epochs is not None else text)
        curves = Link('curves', f'{folder}/{search.picture}')
        lines.append([literal(title), *cells, plain(search.record['total_epochs']), curves])
    header = [candidate(trial, with_batch) for trial in trials]
    return table(['stage \\\\ learning rate', *header, 'epochs spent', ''], lines)
