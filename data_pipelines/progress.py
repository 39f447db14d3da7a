"""How far a long loop is."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


def with_progress(
    outcomes: Iterable[Any], total: int, what: str, unit: str = 'image'
) -> Iterator[Any]:
    """Pass `outcomes` on and tell rate and time left: as a bar, or as lines without a terminal."""
    if sys.stderr.isatty():
        yield from tqdm(outcomes, total=total, desc=what, unit=unit)
        return
    started = told = time.monotonic()
    for done, outcome in enumerate(outcomes, start=1):
        yield outcome
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES or done == total:
            rate = done / (now - started)
            print(
                f'{what}: {done} of {total} {unit}s, {rate:.1f} {unit}s/s, '
                f'{(total - done) / rate:.0f} s left',
                file=sys.stderr, flush=True,
            )  # fmt: skip
            told = now
