"""The learning-rate searches of a study: each once, and the tables of what they tried."""

import dataclasses
import re
from collections.abc import Iterator

from cxr_jax.report.formats import decimal, is_known, percent, plain
from cxr_jax.report.page import table
from cxr_jax.report.study_tables import show

PROTOCOLS = {
    'thesis': 'every candidate trained for the search epochs, the best one continued',
    'sampled': 'drawn candidates trained briefly on a part of the data, then a full training',
    'halving': 'successive halving: a third of the candidates survives each rung',
}


@dataclasses.dataclass(frozen=True)
class Search:
    """One stage's search; `record` is its search.json."""

    path: tuple[str, ...]  # the tasks up to and with the stage; a baseline's name comes first
    region: str
    class_set: str
    seed: int
    record: dict

    @property
    def title(self) -> str:
        return ' → '.join(self.path)

    @property
    def picture(self) -> str:
        parts = ['search', self.region, self.class_set, *self.path, f'seed{self.seed}']
        return re.sub(r'[^a-z0-9]+', '-', ' '.join(parts).lower()) + '.png'

    @property
    def metric(self) -> str:
        return self.record['metric'].replace('_', ' ')

    def show(self, value: float | None) -> str:
        return show(decimal(value) if self.record['metric'] == 'loss' else percent(value))


def searches_of(study: dict) -> list[Search]:
    """Every search once, though several curricula share its stage."""
    found = {}
    for run in study['curricula']:
        records = {record['task']: record for record in run['searches']}
        # Two baselines have the same tasks, and different weights before them.
        path = (run['name'],) if run['kind'] == 'baseline' else ()
        for stage in run['stages']:
            path = (*path, stage['task'])
            if stage['task'] in records and stage['key'] not in found:
                place = (run['region'], run['class_set'], run['seed'])
                found[stage['key']] = Search(path, *place, records[stage['task']])
    return sorted(found.values(), key=lambda s: (s.region, s.class_set, len(s.path), s.path))


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


def search_blocks(study: dict, folder: str) -> Iterator[str]:
    """One table for all searches over the same candidates (Tables B.1 to B.12)."""
    searches = searches_of(study)
    if not searches:
        yield 'No stage of this study searched its learning rate.'
        return
    total = sum(search.record['total_epochs'] for search in searches)
    yield (
        f'{plain(len(searches))} searches, {plain(total)} epochs in all. A cell is the validation '
        'metric at the end of the trial (with the epochs where trials end at different ones); '
        'the chosen candidate is bold.'
    )
    groups = {}
    for search in searches:
        groups.setdefault(_group(search), []).append(search)
    for group in groups.values():
        yield _group_heading(group[0])
        yield _group_table(group, folder)


def _group(search: Search) -> tuple:
    record = search.record
    candidates = tuple((trial['lr'], trial['batch_size']) for trial in record['trials'])
    return (
        search.region, search.class_set, record['protocol'], record['metric'], record['epochs'],
        candidates,
    )  # fmt: skip


def _group_heading(search: Search) -> str:
    record = search.record
    better = 'higher' if record['higher_is_better'] else 'lower'
    protocol = PROTOCOLS.get(record['protocol'], '')
    batches = {trial['batch_size'] for trial in record['trials']}
    batch = f', batch {plain(*batches)}' if len(batches) == 1 else ''
    return (
        f'**{search.region}, classes: {search.class_set}{batch}.** Metric: '
        f'{search.metric} ({better} is better). Protocol: {record["protocol"]} ({protocol}), '
        f'{plain(record["epochs"])} epochs.'
    )


def _group_table(group: list[Search], folder: str) -> str:
    trials = group[0].record['trials']
    with_batch = batches_differ(group[0].record)
    one_seed = len({search.seed for search in group}) == 1
    lines = []
    for search in group:
        title = search.title if one_seed else f'{search.title} (seed {search.seed})'
        judged = [judged_at(trial) for trial in search.record['trials']]
        uneven = len({epochs for epochs, _ in judged}) > 1
        cells = []
        for trial, (epochs, value) in zip(search.record['trials'], judged, strict=True):
            text = search.show(value) if is_known(value) else 'diverged'
            text = f'**{text}**' if trial['chosen'] else text
            cells.append(f'{text} ({plain(epochs)})' if uneven and epochs is not None else text)
        curves = f'[curves]({folder}/{search.picture})'
        lines.append([title, *cells, plain(search.record['total_epochs']), curves])
    header = [candidate(trial, with_batch) for trial in trials]
    return table(['stage \\ learning rate', *header, 'epochs spent', ''], lines)
