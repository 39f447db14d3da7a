"""Kill a run with SIGKILL at random moments, start it again, compare with an uninterrupted one.

    python scripts/kill_and_resume.py FOLDER [--kills 5] [--seed 0] [-- FLAGS OF cxr_jax.main]

Both runs have a workdir and a store of their own under FOLDER. Prints a JSON line per kill and one
with both hashes of the final parameters; exits with 1 if they differ.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

CONFIG = 'configs/curriculum.py:moco_swav_rot,preset=demo'
SHORT = [
    '--config.stage.moco.epochs=2',
    '--config.stage.swav.epochs=2',
    '--config.stage.rot.epochs=2',
    '--config.stage.classify.epochs=4',
]


def start(workdir: pathlib.Path, flags: list[str]) -> subprocess.Popen:
    command = [sys.executable, '-m', 'cxr_jax.main', '--config', CONFIG, '--workdir', str(workdir)]
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def final_hash(workdir: pathlib.Path) -> list[str]:
    """Of the parameters of the last stage, of each fold."""
    return json.loads((workdir / 'results.json').read_text())['params_sha256']


def steps_logged(store: pathlib.Path) -> dict[str, int]:
    """{stage folder: last step in its log}."""
    return {
        path.parent.name: len(path.read_text().splitlines())
        for path in sorted(store.glob('*/metrics.jsonl'))
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--kills', type=int, default=5)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('flags', nargs='*', default=SHORT)
    arguments = parser.parse_args()
    whole, killed = (arguments.folder / name / 'run' for name in ('whole', 'killed'))
    if start(whole, arguments.flags).wait():
        raise SystemExit('The uninterrupted run failed; run the same flags by hand to see why.')
    stages = killed.parent / 'stages'
    share = sum(steps_logged(whole.parent / 'stages').values()) // (arguments.kills + 1)
    rng = random.Random(arguments.seed)
    for kill in range(arguments.kills):
        run = start(killed, arguments.flags)
        # After some progress, then at any moment: in a step, a save, or between two stages.
        goal = sum(steps_logged(stages).values()) + rng.randint(1, share)
        while run.poll() is None and sum(steps_logged(stages).values()) < goal:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2))
        run.send_signal(signal.SIGKILL)
        line = {'kill': kill + 1, 'code': run.wait(), 'steps': steps_logged(stages)}
        print(json.dumps(line), flush=True)
    if start(killed, arguments.flags).wait():
        raise SystemExit('The last start failed.')
    hashes = {'uninterrupted': final_hash(whole), 'killed': final_hash(killed)}
    print(json.dumps(hashes | {'equal': hashes['uninterrupted'] == hashes['killed']}))
    return hashes['uninterrupted'] != hashes['killed']


if __name__ == '__main__':
    sys.exit(main())
