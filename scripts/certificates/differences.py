"""What differs between the folders of two runs that should have done the same."""

import json
import pathlib

import numpy as np
from safetensors.numpy import load_file

from tests import tiny

# What depends on the clock, the machine, the workdir or on how often a run was started.
OF_THE_DAY = {
    'seconds', 'session', 'sessions', 'resumed', 'wall_seconds', 'images_per_second', 'reused',
    'bytes', 'command', 'finished', 'written', 'date', 'name', 'git', 'sha256', 'run',
}  # fmt: skip


def compare(whole: pathlib.Path, killed: pathlib.Path) -> dict[str, list[str]]:
    """{stage, and `results`: a line for every difference}; empty lists where all is equal."""
    found = {}
    names = {path.name for run in (whole, killed) for path in (run / 'stages').glob('[!.]*')}
    for name in sorted(names):
        one, other = whole / 'stages' / name, killed / 'stages' / name
        if not (one.is_dir() and other.is_dir()):
            found[name] = [f'only in {(one if one.is_dir() else other).parent}']
        else:
            found[name] = stages_differ(one, other)
    found['results'] = results_differ(whole / 'run', killed / 'run')
    return found


def stages_differ(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Of two finished stages: last state, bundle, logs."""
    lines = []
    for file in sorted(
        {path.name for place in (one, other) for path in place.glob('*.safetensors')}
    ):
        lines += arrays_differ(file, *(arrays_of(place / file) for place in (one, other)))
    last = [
        max((int(p.name) for p in (x / 'checkpoints').glob('[0-9]*')), default=0)
        for x in (one, other)
    ]
    if last[0] != last[1]:
        lines.append(f'checkpoints: last steps {last[0]} and {last[1]}')
    elif last[0]:
        lines += arrays_differ('state', *(tiny.saved(place, last[0]) for place in (one, other)))
    for file in ('metrics.jsonl', 'health.jsonl', 'probes.jsonl', 'search.json'):
        if rows_of(one / file) != rows_of(other / file):
            lines.append(f'{file}: {first_difference(rows_of(one / file), rows_of(other / file))}')
    lines += told_differ('bundle.json', one, other)
    return lines


def results_differ(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Of two finished workdirs: results and predictions."""
    lines = told_differ('results.json', one, other)
    tables = [place / 'predictions.npz' for place in (one, other)]
    if any(path.is_file() for path in tables):
        lines += arrays_differ('predictions', *(dict(np.load(path)) for path in tables))
    return lines


def arrays_of(path: pathlib.Path) -> dict:
    return load_file(path) if path.is_file() else {}


def arrays_differ(what: str, one: dict, other: dict) -> list[str]:
    """A line with the bytes for every leaf whose bits are not the same."""
    lines = []
    for name in sorted(one.keys() | other.keys()):
        a, b = (np.asarray(arrays[name]) if name in arrays else None for arrays in (one, other))
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            lines.append(f'{what}: {name} is missing or of another shape')
            continue
        differing = np.frombuffer(a.tobytes(), np.uint8) != np.frombuffer(b.tobytes(), np.uint8)
        if differing.any():
            lines.append(f'{what}: {name}, {differing.sum()} of {differing.size} bytes differ')
    return lines


def rows_of(path: pathlib.Path) -> list:
    """Rows of a log without what is of the day."""
    if not path.is_file():
        return []
    return [lasting(json.loads(line)) for line in path.read_text().splitlines()]


def lasting(value):
    """JSON without what is of the day."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in OF_THE_DAY}
    return [lasting(v) for v in value] if isinstance(value, list) else value


def told_differ(file: str, one: pathlib.Path, other: pathlib.Path) -> list[str]:
    found = [
        json.loads((place / file).read_text()) if (place / file).is_file() else None
        for place in (one, other)
    ]
    if lasting(found[0]) == lasting(found[1]):
        return []
    return [f'{file}: {first_difference(*map(lasting, found))}']


def first_difference(one, other, where: str = '') -> str:
    """Where two JSON values differ first, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                return first_difference(one.get(name), other.get(name), f'{where}/{name}')
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return first_difference(a, b, f'{where}/{number}')
    return f'{where or "all"}: {str(one)[:60]} and {str(other)[:60]}'
