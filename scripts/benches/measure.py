"""Timing of several ways to do the same, which take turns, and the lines that tell of it."""

import json
import statistics
import time
from collections.abc import Callable


def timed(run: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Images per second of one run, which returns how many images it handled."""
    start = clock()
    images = run()
    return images / (clock() - start)


def take_turns(
    runs: dict[str, Callable[[], int]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Images per second of every run in every round."""
    rates = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(timed(run, clock))
    return rates


def report(bench: str, rates: dict[str, list[float]], baseline: str, **facts: object) -> None:
    """One line per side: rate in images/s, and its ratio to the baseline of the same round."""
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, rates[baseline], strict=True)]
        line = {
            'bench': bench, 'what': name, 'images_per_s': round(statistics.median(own), 1),
            'least': round(min(own), 1), 'most': round(max(own), 1),
            'ratio': round(statistics.median(ratios), 2), 'least_ratio': round(min(ratios), 2),
            'baseline': baseline, 'rounds': len(own), **facts,
        }  # fmt: skip
        say(**line)


def spread(name: str, values: list[float], digits: int = 2) -> dict:
    """{name: median, name_range: [least, most]}."""
    ends = [round(min(values), digits), round(max(values), digits)]
    return {name: round(statistics.median(values), digits), f'{name}_range': ends}


def say(**line: object) -> None:
    """One JSON line on stdout."""
    print(json.dumps(line), flush=True)
