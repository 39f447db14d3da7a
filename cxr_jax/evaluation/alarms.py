"""What is alarming in the looks at a training: few alarms, each a value that fell below its limit.

`rows`: the looks so far, oldest first, as cxr_jax.evaluation.health tells them, each with 'step'
and, where known, 'loss' (mean since the look before). An alarm goes on after PATIENCE looks in a
row below its limit, and off after as many above RELIEF times the limit. How the limits were found:
docs/health.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

PATIENCE, RELIEF = 2, 1.5
STD_LIMIT = 0.01
RANK_LIMIT, SPREAD_LIMIT = 0.25, 0.8  # shares of the highest rank and standard deviation so far
GAP_LIMIT = 0.3
INFORMATION_LIMIT = 0.005  # nats
LOSS_LIMIT = 0.005  # of a fall, or below the chance loss: as a share of it (of 1 if it is less)
LOSS_SHARE = 0.5  # of the stage: for so long the loss must have been there


class Value(NamedTuple):
    """What an alarm goes by after a look: alarming below the limit."""

    value: float
    limit: float
    told: str  # with its numbers


MEANINGS = {
    'constant': 'all images have nearly the same embedding',
    'shrunk': 'the embeddings have shrunk to a few directions that do not tell images apart',
    'clusters': 'the assignments no longer depend on the image',
    'chance': 'the loss does not leave the level of chance',
}
COLLAPSES = ('constant', 'shrunk', 'clusters')  # what does not mend itself


def values(rows: Sequence[dict], total: int, chance: float | None) -> dict[str, Value]:
    """Alarm -> Value after the last look of `rows`; one without a value cannot go on.

    total: steps of the stage; chance: its chance loss.
    """
    last = rows[-1]
    std = f'standard deviation {last["std"]:.2g} of 1'
    found = {'constant': Value(last['std'], STD_LIMIT, std)}
    if 'positive' in last:
        found['shrunk'] = _shrunk(rows)
    if 'entropy' in last:
        information = last['entropy'] - last['row_entropy']
        told = f'an assignment tells {information:.2g} nats of its image'
        found['clusters'] = Value(information, INFORMATION_LIMIT, told)
    window = LOSS_SHARE * total
    if chance is not None and last['step'] >= window:
        losses = [row['loss'] for row in rows if row['step'] > last['step'] - window]
        told = f'at best {min(losses):.4g} in half of the stage, chance {chance:.4g}'
        better = max(chance - min(losses), _fall(losses))
        found['chance'] = Value(better, LOSS_LIMIT * max(abs(chance), 1.0), told)
    return found


def _fall(losses: Sequence[float]) -> float:
    """By how much their second half is lower: one that comes from above chance is on its way."""
    half = len(losses) // 2
    return sum(losses[:half]) / max(half, 1) - sum(losses[half:]) / (len(losses) - half)


def gap(row: dict) -> float:
    """How much nearer the views of one image are than those of different ones, as a share of their
    squared distance: 1 where views agree, 0 where an image makes no difference."""
    return (row['positive'] - row['negative']) / max(1 - row['negative'], 1e-6)


def _shrunk(rows: Sequence[dict]) -> Value:
    """By rank, spread and gap, of which the best decides: embeddings of low rank that go on
    spreading or telling images apart are no collapse, and views may be meant to differ."""
    last, near = rows[-1], gap(rows[-1])
    rank, std = (max(row[name] for row in rows) for name in ('centred_rank', 'std'))
    value = max(
        last['centred_rank'] / rank / RANK_LIMIT,
        last['std'] / max(std, STD_LIMIT) / SPREAD_LIMIT,
        near / GAP_LIMIT,
    )
    told = f'effective rank {last["centred_rank"]:.3g}, once {rank:.3g}'
    return Value(value, 1.0, f'{told}; views of one image nearer by {100 * near:.0f} %')


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
