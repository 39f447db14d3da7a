"""What is alarming in the looks at a training: few alarms, each a value that fell below its limit.

`rows`: the looks so far, oldest first, as cxr_jax.evaluation.health tells them, each with 'step'
and, where known, 'loss' (mean since the look before). An alarm goes on after PATIENCE looks in a
row below its limit, and off after as many above RELIEF times the limit.
"""

from collections.abc import Sequence
from typing import NamedTuple

PATIENCE, RELIEF = 2, 1.5
STD_LIMIT = 0.01
RANK_LIMIT = 0.2  # share of the highest rank seen
INFORMATION_LIMIT = 0.005  # nats
LOSS_LIMIT = 0.005  # below the chance loss, as a share of it (of 1 where it is less)
LOSS_SHARE = 0.5  # of the stage: for so long the loss must have been there


class Value(NamedTuple):
    """What an alarm goes by after a look; alarming below the limit."""

    value: float
    limit: float


MEANINGS = {
    'constant': 'all images have nearly the same embedding',
    'shrunk': 'the embeddings have shrunk to a few directions',
    'clusters': 'the assignments no longer depend on the image',
    'chance': 'the loss has not left the level of chance',
}
COLLAPSES = ('constant', 'shrunk', 'clusters')  # what does not mend itself


def values(rows: Sequence[dict], total: int, chance: float | None) -> dict[str, Value]:
    """Alarm -> Value after the last look of `rows`; one without a value cannot go on.

    total: steps of the stage; chance: its chance loss.
    """
    last = rows[-1]
    found = {
        'constant': Value(last['std'], STD_LIMIT),
        'shrunk': Value(
            last['centred_rank'], RANK_LIMIT * max(row['centred_rank'] for row in rows)
        ),
    }
    if 'entropy' in last:
        information = last['entropy'] - last['row_entropy']
        found['clusters'] = Value(information, INFORMATION_LIMIT)
    window = LOSS_SHARE * total
    if chance is not None and last['step'] >= window:
        losses = [row['loss'] for row in rows if row['step'] > last['step'] - window]
        limit = LOSS_LIMIT * max(abs(chance), 1.0)
        found['chance'] = Value(chance - min(losses), limit)
    return found


def judge(rows: Sequence[dict], total: int, chance: float | None) -> list[str]:
    """The alarms that are on after the last look; the rows before it tell theirs in 'alarms'."""
    before = rows[-2].get('alarms', []) if len(rows) > 1 else []
    recent = [
        values(rows[: len(rows) - back], total, chance) for back in range(min(PATIENCE, len(rows)))
    ]

    def is_on(name: str) -> bool:
        found = [each[name] for each in recent if name in each]
        if name in before:
            return not (len(found) == PATIENCE and all(v.value > RELIEF * v.limit for v in found))
        return len(found) == PATIENCE and all(v.value < v.limit for v in found)

    return [name for name in MEANINGS if is_on(name)]


def spans(rows: Sequence[dict]) -> list[tuple[str, int, int | None]]:
    """(alarm, step at which it went on, step at which it went off or None), in their order."""
    found, since = [], {}
    for row in rows:
        on = row.get('alarms', [])
        for name in on:
            since.setdefault(name, row['step'])
        for name in [name for name in since if name not in on]:
            found.append((name, since.pop(name), row['step']))
    found += [(name, step, None) for name, step in since.items()]
    return sorted(found, key=lambda span: span[1])
