"""The bench `scale`: what more devices and more data cost.

`python -m scripts.benches.scale TASK` and `... scale FOLDER RECORDS` are the processes that it
starts, each with devices, or a data set, of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import jax

from configs.curriculum import get_config
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.plan import make_plan
from cxr_jax.runtime import parallel
from data_pipelines.prepared import loader
from data_pipelines.prepared.sampler import Sampler
from data_pipelines.prepared.target import target_of
from scripts.benches.case import NAMES, Case, Scale
from scripts.benches.measure import report, say, spread, take_turns
from scripts.benches.prepared_set import NAME, write_set

ROOT = Path(__file__).parents[2]
DEVICES = (1, 2, 4, 8)
RECORDS = (1_000, 10_000, 100_000)
SIZE, BATCH = 64, 64
BATCHES, STEPS = 200, 60  # that are timed, whatever the size of the set
TINY = Scale('resnet18', width=8, size=32, stored=SIZE, batch=BATCH)


def bench_scale(
    rounds: int,
    task: str = 'classify',
    devices: Sequence[int] = DEVICES,
    records: Sequence[int] = RECORDS,
) -> None:
    """A task's step on fake devices of one CPU; start, memory and rate on sets of several sizes."""
    if devices:
        bench_devices(task, devices, rounds)
    with tempfile.TemporaryDirectory() as cache:
        for number in records:
            bench_data(number, cache, rounds)


def bench_devices(task: str, devices: Sequence[int], rounds: int) -> None:
    """The same global batch on more devices is the same work: what is lost is its division."""
    workers = {f'{n} devices': _step_worker(task, n) for n in devices}

    def run_of(worker: subprocess.Popen):
        def run() -> int:
            worker.stdin.write('step\n')
            worker.stdin.flush()
            return int(worker.stdout.readline())

        return run

    runs = {name: run_of(worker) for name, worker in workers.items()}
    try:
        for run in runs.values():
            run()  # when it has compiled
        rates = take_turns(runs, rounds)
        report('scale', rates, f'{devices[0]} devices', task=task, network=TINY.encoder,
               width=TINY.width, size=TINY.size, batch=BATCH, cores=os.cpu_count())  # fmt: skip
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


def _step_worker(task: str, devices: int) -> subprocess.Popen:
    flags = f'--xla_force_host_platform_device_count={devices}'
    return subprocess.Popen(
        [sys.executable, '-m', 'scripts.benches.scale', task], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
    )  # fmt: skip


def take_steps(task: str) -> None:
    """Ten steps for every line on stdin; answers with the number of images."""
    run = Case(task, TINY, parallel.data_mesh()).step_run()
    for _ in sys.stdin:
        print(sum(run() for _ in range(10)), flush=True)


def bench_data(records: int, cache: str, rounds: int) -> None:
    """Opening, first batch, steps and memory on a set of so many images, a process per round."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        size = write_set(Path(folder), records, SIZE)
        written = time.perf_counter() - began
        command = [sys.executable, '-m', 'scripts.benches.scale', folder, str(records)]
        environment = os.environ | {
            'JAX_COMPILATION_CACHE_DIR': cache,
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        }
        measured = []
        for _ in range(rounds):
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            measured.append(json.loads(done.stdout))
    line = {}
    for name in measured[0]:
        line |= spread(name, [each[name] for each in measured], 3)
    say(bench='scale', what=f'{records} records', **line, megabytes=round(size / 1e6, 1),
        written_s=round(written, 1), size=SIZE, batch=BATCH, batches=BATCHES,
        rounds=rounds)  # fmt: skip


def read_set(folder: str, records: int) -> dict[str, float]:
    """Seconds and megabytes of one process that opens the set and trains on its batches."""
    mesh, found = parallel.data_mesh(), {}
    config = get_config('moco_swav,preset=demo')
    config.data.dir, config.data.name, config.data.size = folder, NAME, SIZE
    began, before = time.perf_counter(), _resident_mb()

    def lap(name: str, scale: float = 1.0) -> None:
        nonlocal began
        now = time.perf_counter()
        found[name], began = (now - began) * scale, now

    sets = open_sets(config)
    lap('open_s')
    make_plan(config, sets, mesh.size)
    lap('plan_s')
    data, corpus = sets[NAME], sets[NAME].corpus('train')
    assert len(corpus) == records
    labels = target_of(data).values(corpus)
    lap('labels_s')
    sampler = Sampler(corpus, BATCH, seed=0)
    batches = loader.train_batches(corpus, sampler, fields=('image', 'label'), labels=labels)
    next(batches)
    lap('first_batch_s')
    for _ in islice(batches, BATCHES):
        pass
    lap('batch_ms', 1e3 / BATCHES)
    # Before anything is compiled, which takes and frees more.
    found['more_mb'] = _resident_mb() - before
    case = Case('classify', TINY, mesh)
    step, state = case.step()
    state, *_ = step(state, case.noise())
    jax.block_until_ready(state)
    began = time.perf_counter()
    for batch in islice(batches, STEPS):
        state, *_ = step(state, parallel.put_rows(mesh, batch))
    jax.block_until_ready(state)
    lap('step_ms', 1e3 / STEPS)
    target_of(data, NAMES[:2]).labelled(corpus)
    lap('two_classes_s')
    corpus.fraction(0.08, seed=0, strata=labels)
    lap('fraction_s')
    return found


def _resident_mb() -> float:
    """Memory of this process at present."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmRSS')) / 1024


if __name__ == '__main__':
    if len(sys.argv) == 2:
        take_steps(sys.argv[1])
    else:
        print(json.dumps(read_set(sys.argv[1], int(sys.argv[2]))))
