"""Hand-over matrix: every task behind every pretext task, on data and a network of the tests.

For every ordered pair, the second stage
    T  takes over the encoder, and the parts that it goes on with, exactly as they were left;
    L  learns: its losses differ, the parts that it trains move and the frozen ones do not;
    R  stopped after step 5 of 8 and started again, ends with the same bits: state, log, bundle;
    D  in float64, ends on one device as on four.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import pathlib
import shutil
import tempfile
import time
import traceback

import jax
import numpy as np

from cxr_jax.run.initial import initial_parts
from cxr_jax.runtime import parallel
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import trees
from cxr_jax.store.bundle import read_parts
from cxr_jax.store.stages import StageDirectory
from cxr_jax.tasks import READOUTS, TASKS
from scripts.certificates import sets
from tests import exactness, tiny

ROOT = pathlib.Path(__file__).parents[2]
HERE = 'scripts/certificates'
ROWS = 'matrix.jsonl'  # a line for every pair, the last one counts
STOP = 5


def certify(arguments) -> int:
    """Trains what comes first, then checks the followers, each in one process; prints the table."""
    folder, asked = arguments.folder, sets.asked_for(arguments.only)
    started = time.monotonic()
    sets.prepare_all(folder / 'data')
    pairs = [(a, b) for b in TASKS | READOUTS for a in TASKS if wanted(a, b, asked)]
    rows = passed_before(folder)
    for old in set(folder.glob('stages-*')) - {store_of(folder)}:
        shutil.rmtree(old)
    columns = {}
    for a, b in pairs:
        if (a, b) not in rows:
            columns.setdefault(b, []).append(a)
    workers = concurrent.futures.ProcessPoolExecutor(
        arguments.processes, multiprocessing.get_context('spawn')
    )
    with workers:
        firsts = sorted({a for before in columns.values() for a in before})
        list(workers.map(train_first, firsts, [folder] * len(firsts)))
        checked = [workers.submit(check_column, b, columns[b], folder) for b in columns]
        for done, column in enumerate(concurrent.futures.as_completed(checked), 1):
            rows |= column.result()
            minutes = (time.monotonic() - started) / 60
            print(f'{done} of {len(columns)} followers checked, {minutes:.1f} min', flush=True)
    rows = {pair: rows[pair] for pair in pairs}
    print(table(rows))
    failed = {pair: row for pair, row in rows.items() if row['failed']}
    for (a, b), row in failed.items():
        for letter, told in row['failed'].items():
            print(f'\n{a} -> {b}, {letter}:\n{told}')
    minutes = (time.monotonic() - started) / 60
    print(f'\n{len(pairs)} pairs, {len(failed)} failed, {minutes:.1f} min')
    return int(bool(failed))


def wanted(before: str, after: str, asked: set[str]) -> bool:
    """Of one name, every pair with it; of several, the pairs among them."""
    return bool(asked & {before, after}) if len(asked) == 1 else {before, after} <= asked


def store_of(folder: pathlib.Path) -> pathlib.Path:
    """Of the first stages, as this code trains them."""
    return folder / f'stages-{code_hash()}'


def passed_before(folder: pathlib.Path) -> dict:
    """{pair: row} of the pairs that have passed with this code."""
    path, code, found = folder / ROWS, code_hash(), {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        row = json.loads(line)
        if row['code'] == code and not row['failed']:
            found[row['before'], row['after']] = row
    return found


@functools.cache
def code_hash() -> str:
    """Of everything that the result of a pair may depend on."""
    found = hashlib.sha256()
    packages = [ROOT / name for name in ('cxr_jax', 'data_pipelines', 'configs', HERE)]
    paths = [path for package in packages for path in package.rglob('*.py')]
    for path in sorted([*paths, *(ROOT / 'tests').glob('*.py')]):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def table(rows: dict) -> str:
    """A line for every first task, a column for every follower: `.`, or the letters that failed."""
    before = list(dict.fromkeys(a for a, _ in rows))
    after = list(dict.fromkeys(b for _, b in rows))
    width = max(map(len, before))
    lines = [' ' * width + ' ' + ' '.join(after)]
    for a in before:
        cells = []
        for b in after:
            row = rows.get((a, b))
            cell = '' if row is None else ''.join(row['failed']) or '.'
            cells.append(cell.center(len(b)))
        lines.append(f'{a:{width}} ' + ' '.join(cells))
    return '\n'.join(lines)


def train_first(name: str, folder: pathlib.Path) -> None:
    """The first stage of a task, in the store of the folder."""
    with quiet():
        data = sets.open_for(folder / 'data', name)
        stage = tiny.make_plan(data, name, 'none').stages[0]
        tiny.run(stage, store_of(folder))


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def check_column(after: str, before: list[str], folder: pathlib.Path) -> dict:
    """{pair: row} of a follower behind several tasks, which share its compiled steps."""
    rows = {}
    for name in before:
        started = time.monotonic()
        failed = check_pair(name, after, folder)
        row = {
            'before': name, 'after': after, 'failed': failed, 'code': code_hash(),
            'seconds': round(time.monotonic() - started, 2),
        }  # fmt: skip
        rows[name, after] = row
        # One write, so that lines of several processes do not mix.
        with open(folder / ROWS, 'a') as file:
            file.write(json.dumps(row) + '\n')
    return rows


def check_pair(before: str, after: str, folder: pathlib.Path) -> dict[str, str]:
    """{letter of a check that failed: what was wrong}."""
    failed, scratch = {}, pathlib.Path(tempfile.mkdtemp(dir=folder))
    try:
        with quiet():
            pair = Pair(before, after, folder, scratch)
            for letter, check in (
                ('T', pair.takes_over), ('L', pair.learns), ('R', pair.resumes),
                ('D', pair.equals_on_four_devices),
            ):  # fmt: skip
                try:
                    check()
                except Exception:  # whatever it is, it belongs into the table
                    failed[letter] = traceback.format_exc(limit=-4)
    except Exception:
        failed['T'] = traceback.format_exc(limit=-4)
    finally:
        shutil.rmtree(scratch)
    return failed


class Pair:
    """The second stage of a pair, and the parts that the first one left."""

    def __init__(self, before: str, after: str, folder: pathlib.Path, scratch: pathlib.Path):
        named = store_of(folder).glob(f'{before}-*')
        [self._first] = [path for path in named if path.suffix != '.partial']
        self._scratch = scratch
        self._plan_of = lambda devices, **changes: self._second(
            before, after, folder, devices, changes
        )
        self._stage, self._left = self._plan_of(1)

    def _second(self, before, after, folder, devices, changes):
        data, readout = sets.open_for(folder / 'data', after), after in READOUTS
        name = f'{after}2' if after == before else after
        changes = {f'stage.{name}.{field}': value for field, value in changes.items()}
        if data.name == sets.PHANTOMS:
            tasks = before if readout else f'{before}_{after}'
            plan = tiny.make_plan(data, tasks, after if readout else 'none', devices, **changes)
            return plan.stages[-1], read_parts(self._first)
        # Another set, of fewer images: its run starts from the folder of the finished stage.
        changes |= {'encoder.weights': str(self._first), f'stage.{name}.epochs': 4}
        plan = tiny.make_plan(data, 'scratch', after, devices, **changes)
        return plan.stages[-1], initial_parts(plan, plan.branches[0])

    def takes_over(self) -> None:
        task, left = self._stage.task, self._left
        state = tiny.first_state(self._stage, self._scratch / 'first', left)
        for part in {*task.takes, 'encoder'} & left.keys() & state.params.keys():
            same(state.params[part], left[part]['params'], f'parameters of {part}')
            if not task.fresh_statistics:
                same(state.batch_stats[part], left[part]['batch_stats'], f'statistics of {part}')

    def learns(self) -> None:
        task = self._stage.task
        self._outcome = tiny.run(self._stage, self._scratch / 'whole', self._left)
        parts = self._outcome.parts
        assert parts.keys() == {*task.leaves}, f'it leaves {sorted(parts)}'
        if task.trains:
            losses = {row['loss'] for row in self._outcome.metrics}
            assert len(losses) == self._stage.total_steps == tiny.STEPS, f'losses {losses}'
        # A readout of frozen features may find new batch statistics for the same parameters.
        before, after = (trees.sha256(x['encoder']['params']) for x in (self._left, parts))
        still = task.frozen(self._stage.facts).get('encoder', 0) is None
        assert (before == after) == still, 'the encoder has moved' if still else 'it stands still'

    def resumes(self) -> None:
        stores = {name: self._scratch / name for name in ('whole', 'stopped')}
        whole, stopped = (
            StageDirectory(store, self._stage.name, self._stage.key) for store in stores.values()
        )
        if self._stage.total_steps > STOP:
            try:
                tiny.run(self._stage, stores['stopped'], self._left, around=tiny.sigterm_at(STOP))
            except Interrupted:
                pass
            else:
                raise AssertionError('it was not stopped')
        again = tiny.run(self._stage, stores['stopped'], self._left)
        same(again.parts, self._outcome.parts, 'the bundle')
        if self._stage.total_steps:
            tiny.assert_same_training(stopped, whole)

    def equals_on_four_devices(self) -> None:
        case = exactness.CASES.get(self._stage.kind, {})
        stage, left = self._plan_of(exactness.DEVICES, **{'optimizer.lr': 0.01} | case)
        stage = exactness.in_float64(stage)
        found = {}
        for devices in (1, exactness.DEVICES):
            mesh = parallel.data_mesh(jax.devices()[:devices])
            place = self._scratch / f'exact{devices}'
            found[devices] = exactness.train(stage, mesh, place, left)
        exactness.assert_equal(found[exactness.DEVICES], found[1])


def same(found, expected, what: str) -> None:
    """The same bits in every leaf."""
    found, expected = (jax.tree_util.tree_leaves_with_path(x) for x in (found, expected))
    assert len(found) == len(expected), what
    for (path, a), (_, b) in zip(found, expected, strict=True):
        equal = np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert equal, f'{what}: {trees.name_of(path)} differs'
