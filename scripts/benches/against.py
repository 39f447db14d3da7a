"""The bench `against`: this checkout and an older one, whose own benches take turns.

Each side measures in processes of its own, with its own code, and prints the lines of its own
scripts/bench.py; what lines mean is the same in both.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benches.measure import say

ROOT = Path(__file__).parents[2]
DEMO = 'configs/curriculum.py:moco_swav_rot,preset=demo'
# What is run of either side's scripts/bench.py, the field of a line that tells which one it is,
# and the fields that are compared: those in images/s are better when larger, times when smaller.
BENCHES = {
    'step': ('views --task moco classify --rounds 5', 'task', ('step_ms', 'views_ms')),
    'input': ('input --rounds 1', 'what', ('images_per_s',)),
    'start': ('start --rounds 1', 'what', ('imports_s', 'setup_s', 'first_step_s', 'total_s')),
}
WHAT = (*BENCHES, 'demo')


def parse_what(text: str) -> tuple[str, ...]:
    """'step,demo' -> ('step', 'demo')."""
    names = tuple(text.split(','))
    if not set(names) <= set(WHAT):
        raise argparse.ArgumentTypeError(f'{text!r} is not some of {",".join(WHAT)}')
    return names


def bench_against(rounds: int, old: Path, what: Sequence[str]) -> None:
    """Speed of this checkout over that of the one in --old, part by part, in alternating turns."""
    sides = {'old': old.resolve(), 'new': ROOT}
    if not (sides['old'] / 'scripts' / 'bench.py').is_file():
        raise SystemExit(f'{old} has no scripts/bench.py; name a checkout: git clone . {old}')
    for name in what:
        found = {side: [] for side in sides}
        for number in range(rounds):
            # Neither side always follows the other.
            for side in sorted(sides, reverse=number % 2 == 0):
                found[side].append(measure(name, sides[side]))
        for line in compared(name, found):
            say(**line)


def measure(name: str, root: Path) -> dict[tuple[str, str], float]:
    """{(part, field): value} of one side."""
    if name == 'demo':
        return {('whole', 'wall_s'): demo_seconds(root)}
    arguments, part, fields = BENCHES[name]
    text = _run([sys.executable, 'scripts/bench.py', *arguments.split()], root)
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{')]
    return {(line[part], field): line[field] for line in lines for field in fields}


def demo_seconds(root: Path) -> float:
    """The demo from nothing: data are prepared, and everything is compiled."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'cxr_jax.main', '--config', str(root / DEMO)]
        began = time.perf_counter()
        _run(command, Path(folder), PYTHONPATH=str(root), JAX_COMPILATION_CACHE_DIR=folder)
        return time.perf_counter() - began


def compared(name: str, found: dict[str, list[dict]]) -> list[dict]:
    """A line for each value that both sides have, and one that names those that only one has.

    `speed`: median over the rounds of how many times as fast the new side is, above 1 if faster.
    """
    lines, old, new = [], found['old'], found['new']
    for key in old[0]:
        if key not in new[0]:
            continue
        part, field = key
        before, after = ([each[key] for each in side] for side in (old, new))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        speeds = ratios if field == 'images_per_s' else [1 / ratio for ratio in ratios]
        lines.append({
            'bench': 'against', 'what': name, 'part': part, 'field': field,
            'old': statistics.median(before), 'new': statistics.median(after),
            'speed': round(statistics.median(speeds), 3), 'least': round(min(speeds), 3),
            'most': round(max(speeds), 3), 'rounds': len(speeds),
        })  # fmt: skip
    alone = sorted(f'{part}, {field}' for part, field in old[0].keys() ^ new[0].keys())
    if alone:
        lines.append({'bench': 'against', 'what': name, 'of_one_side_only': alone})
    return lines


def _run(command: list[str], folder: Path, **variables: str) -> str:
    """What the command prints; SystemExit with its errors if it fails."""
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        told = f'failed in {folder} with {done.returncode} (below 0: that signal ended it)'
        raise SystemExit(f'{shlex.join(command)} {told}:\n{done.stderr[-4000:]}')
    return done.stdout
