"""The bench `start`: from the command to the end of its first train step.

`python -m scripts.benches.start BEGAN FLAGS` is cxr_jax.main with these flags, stopped after that
step; it prints its times, counted from the clock's BEGAN, when its process was started.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.benches.measure import say, spread

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/curriculum.py:moco_swav_rot,preset=demo'
IMAGES = 200  # a quarter of the demo's: none of what is timed depends on their number
PARTS = ('imports_s', 'setup_s', 'first_step_s', 'total_s')


def bench_start(rounds: int) -> None:
    """The demo on its embedded data, prepared before, with an empty and a filled compile cache."""
    from configs.curriculum import get_config
    from cxr_jax.run.embedded import NAME
    from data_pipelines.prepare import prepare

    size = get_config(CONFIG.partition(':')[2]).data.size
    times = {'cold cache': [], 'warm cache': []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, 'data')
        prepare(NAME, None, data, size, images=IMAGES)
        for number in range(rounds):
            for what, measured in times.items():
                measured.append(first_step(Path(folder), data, f'cache{number}', what))
    for what, measured in times.items():
        parts = [spread(name, [each[name] for each in measured]) for name in PARTS]
        line = {key: value for part in parts for key, value in part.items()}
        say(bench='start', what=what, **line, device=measured[0]['device'], config=CONFIG,
            rounds=rounds)  # fmt: skip


def first_step(folder: Path, data: Path, cache: str, what: str) -> dict:
    """What the command's process measured, on a workdir and a store of its own."""
    run = folder / f'{cache}-{what.split()[0]}' / 'run'
    flags = ['--config', CONFIG, f'--workdir={run}', f'--config.data.dir={data}']
    environment = os.environ | {
        'JAX_COMPILATION_CACHE_DIR': str(folder / cache),
        # cxr_jax.runtime.compilation.MIN_COMPILE_SECONDS, which it sets for its own folder only.
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
    }
    command = [sys.executable, '-m', 'scripts.benches.start', repr(time.time()), *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'{shlex.join(command)} failed:\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


def stop_after_first_step(began: float) -> None:
    """Runs cxr_jax.main up to there, prints the times as JSON and ends this process."""
    from cxr_jax import main
    from cxr_jax.runtime import command_line
    from cxr_jax.train import program as training

    imported = time.time()
    make_train_step = training.make_train_step

    def make(*parts):
        step = make_train_step(*parts)

        def first(state, batch):
            import jax

            entered = time.time()
            jax.block_until_ready(step(state, batch))
            ended = time.time()
            seconds = (imported - began, entered - imported, ended - entered, ended - began)
            device = jax.devices()[0].device_kind
            print(json.dumps(dict(zip(PARTS, seconds, strict=True)) | {'device': device}))
            sys.stdout.flush()
            os._exit(0)

        return first

    training.make_train_step = make
    command_line.run(main.main, main.EXAMPLE, in_argument=('curriculum', 'readout', 'preset'))


if __name__ == '__main__':
    stop_after_first_step(float(sys.argv.pop(1)))
