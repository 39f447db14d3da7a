"""Plants bugs in a copy of the package, one at a time: the tests must catch each.

    python -m scripts.mutate_losses [--only simsiam] [--processes 2]

A line for each of scripts.planted_bugs: caught, with the first test that failed, or SURVIVED. Exit
code 1 if one survives, cannot be planted any more, or keeps the tests from running at all.
"""

import argparse
import concurrent.futures
import functools
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from scripts.planted_bugs import BUGS, Bug

ROOT = pathlib.Path(__file__).parents[1]
COPIED = ('cxr_jax', 'configs', 'data_pipelines', 'scripts', 'tests', 'pyproject.toml')
CAUGHT, SURVIVED, BROKEN = 'caught', 'SURVIVED', 'BROKEN'


def plant(bug: Bug, root: pathlib.Path) -> None:
    """Changes the file under `root`; ValueError unless the old text stands in it exactly once."""
    path = root / 'cxr_jax' / bug.file
    text = path.read_text()
    if text.count(bug.old) != 1 or bug.old == bug.new:
        raise ValueError(f'{bug.file} has {text.count(bug.old)} times {bug.old!r}')
    path.write_text(text.replace(bug.old, bug.new))


def tests_of(bug: Bug) -> tuple[str, ...]:
    """Files of tests that must catch it."""
    return (f'tests/parity/test_{bug.task}.py', *bug.tests)


def copy_to(folder: pathlib.Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, target)


def run_tests(root: pathlib.Path, tests) -> tuple[int, str]:
    """(pytest's exit code, what it said), up to the first failure."""
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', *tests]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@functools.cache
def sound(tests: tuple[str, ...]) -> bool:
    """Whether the tests pass without any bug."""
    return run_tests(ROOT, tests)[0] == 0


def try_bug(bug: Bug) -> tuple[str, str, float]:
    """(verdict, what told it, seconds)."""
    started = time.monotonic()
    if not sound(tests_of(bug)):
        return BROKEN, f'{" ".join(tests_of(bug))}: fails without the bug', 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        copy_to(root)
        try:
            plant(bug, root)
        except ValueError as error:
            return BROKEN, str(error), time.monotonic() - started
        code, said = run_tests(root, tests_of(bug))
    seconds = time.monotonic() - started
    failed = re.findall(r'^FAILED (\S+)', said, re.MULTILINE)
    if code == 1 and failed:
        return CAUGHT, failed[0], seconds
    if code == 0:
        return SURVIVED, ' '.join(tests_of(bug)), seconds
    return BROKEN, said[-1000:], seconds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', default='', help='bugs whose task or name has this in it')
    parser.add_argument('--processes', type=int, default=2)
    arguments = parser.parse_args(argv)
    bugs = [bug for bug in BUGS if arguments.only in f'{bug.task}: {bug.name}']
    if not bugs:
        parser.error(f'no bug has {arguments.only!r} in its task or name')
    caught = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.processes) as workers:
        for bug, (verdict, told, seconds) in zip(bugs, workers.map(try_bug, bugs), strict=True):
            caught += verdict == CAUGHT
            print(f'{verdict:8} {seconds:4.0f} s  {bug.task}: {bug.name}  ({told})', flush=True)
    print(f'{caught} of {len(bugs)} caught')
    return int(caught < len(bugs))


if __name__ == '__main__':
    sys.exit(main())
