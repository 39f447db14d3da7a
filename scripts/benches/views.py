"""The bench `views`: the share of every task's views in its train step."""

import dataclasses
import statistics
from collections.abc import Iterable

import jax

from cxr_jax.runtime import parallel
from cxr_jax.tasks import READOUTS, TASKS
from scripts.benches.case import Case, usual_scale
from scripts.benches.measure import say, take_turns

ALL = (*TASKS, *READOUTS)
REPEATS = 5  # calls of the views per round: they are short


def bench_views(rounds: int, tasks: Iterable[str] = ALL) -> None:
    """One line per task: time of its views over the time of its step, which contains them."""
    scale, mesh = usual_scale(), parallel.data_mesh()
    for name in tasks:
        case = Case(name, scale, mesh)
        runs = {'views': case.views_run(REPEATS), 'step': case.step_run()}
        rates = take_turns(runs, rounds)
        seconds = {what: [scale.batch / rate for rate in own] for what, own in rates.items()}
        shares = [a / b for a, b in zip(seconds['views'], seconds['step'], strict=True)]
        line = {
            'bench': 'views', 'task': name, 'share': round(statistics.median(shares), 4),
            'least': round(min(shares), 4), 'most': round(max(shares), 4),
            'views_ms': round(1e3 * statistics.median(seconds['views']), 2),
            'step_ms': round(1e3 * statistics.median(seconds['step']), 1), 'rounds': rounds,
            **dataclasses.asdict(scale), 'device': jax.devices()[0].device_kind,
        }  # fmt: skip
        say(**line)
