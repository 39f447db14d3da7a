"""Resume certificate: runs that have every task, killed and started again, end with the same bits.

Each stage is killed at least once, at a random step or in a save behind it, if there are enough
kills; the others come as a stage ends and the next one begins, or at any moment after a start.
"""

import dataclasses
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from cxr_jax.run.settings import kind_of, stages_of
from cxr_jax.tasks import READOUTS, TASKS
from scripts.certificates import program, sets
from scripts.certificates.differences import compare
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
EPOCHS = 4
EVERY = {'epochs': EPOCHS, 'checkpoint_epochs': 0.25}  # nearly always saving
KINDS = ('step', 'save', 'change', 'start')  # two for every stage, two for the other kills


@dataclasses.dataclass(frozen=True)
class Run:
    """A command and where it works."""

    tasks: str
    readout: str
    data: object  # PreparedSet
    folder: pathlib.Path

    @property
    def stages(self) -> tuple[str, ...]:
        readout = () if self.readout == 'none' else (self.readout,)
        return (*stages_of(self.tasks), *readout)

    @property
    def workdir(self) -> pathlib.Path:
        return self.folder / 'run'

    def start(self, fault: str = '') -> subprocess.Popen:
        """The command in a process of its own, on one device; what it says goes to a file."""
        flags = tiny.settings(self.tasks, self.readout)
        flags |= {'data.name': self.data.name, 'data.dir': self.data.data_dir}
        for name in self.stages:
            flags |= {f'stage.{name}.{field}': value for field, value in EVERY.items()}
        config = f'configs/curriculum.py:{self.tasks},readout={self.readout},preset=demo'
        command = [
            sys.executable, '-m', 'scripts.certificates.program', f'--workdir={self.workdir}',
            f'--config={config}', *(f'--config.{name}={value}' for name, value in flags.items()),
        ]  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = tiny.environment(1, **{program.FAULT: fault})
        with open(self.folder / 'said', 'a') as said:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
            )

    def finish(self, fault: str = '') -> None:
        if self.start(fault).wait():
            raise SystemExit(f'A run failed that was not killed: see {self.folder / "said"}.')

    def stage_folder(self, stage: str, partial: bool) -> pathlib.Path | None:
        """Folder of a stage that is trained, or finished; None if it is not there."""
        found = (self.folder / 'stages').glob(f'{stage}-*')
        return next((path for path in found if (path.suffix == '.partial') == partial), None)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a process is killed: at or after `step` of a stage, in a way of KINDS."""

    stage: str
    step: int
    kind: str
    delay: float  # seconds


def certify(arguments) -> int:
    """Trains everything once undisturbed, then with kills; prints what differs."""
    started, rng = time.monotonic(), random.Random(arguments.seed)
    sets.prepare_all(arguments.folder / 'data')
    whole, killed = (
        runs_of(sets.asked_for(arguments.only), arguments.folder, name)
        for name in ('whole', 'killed')
    )
    plan = moments(killed, arguments.kills, rng)
    for name in ('whole', 'killed'):
        shutil.rmtree(arguments.folder / name, ignore_errors=True)
    delivered, different = 0, 0
    for number, (one, other) in enumerate(zip(whole, killed, strict=True)):
        one.finish()
        for moment in plan[number]:
            told = kill_once(other, moment, arguments.fault)
            delivered += told is not None
            say(started, f'{moment.stage}: ' + (told or f'ended before the {moment.kind}'))
        other.finish(arguments.fault)
        for stage, lines in compare(one.folder, other.folder).items():
            different += bool(lines)
            say(started, f'{stage}: ' + ('equal' if not lines else 'DIFFERENT'))
            print(''.join(f'    {line}\n' for line in lines), end='')
    verdict = f'{different} stages or results differ' if different else 'all equal'
    say(started, f'{delivered} kills, {verdict}')
    return int(bool(different) or delivered < arguments.kills)


def say(started: float, what: str) -> None:
    print(f'{time.monotonic() - started:6.0f} s  {what}', flush=True)


def runs_of(asked: set[str], folder: pathlib.Path, name: str) -> list[Run]:
    """The runs that have every task asked for; the classifier behind all pretext tasks."""
    tasks = '_'.join(task for task in TASKS if task in asked) or 'scratch'
    readouts = [readout for readout in READOUTS if readout in asked]
    chain = 'classify' if 'classify' in asked else 'none'
    found = [] if (tasks, chain) == ('scratch', 'none') else [(tasks, chain)]
    found += [('scratch', readout) for readout in readouts if readout != 'classify']
    return [
        Run(tasks, readout, sets.open_for(folder / 'data', readout), folder / name / str(number))
        for number, (tasks, readout) in enumerate(found)
    ]


def moments(runs: list[Run], kills: int, rng: random.Random) -> list[list[Moment]]:
    """Moments of every run, in the order of its stages and their steps."""
    places = [(number, stage) for number, run in enumerate(runs) for stage in run.stages]
    chosen = rng.sample(places, min(kills, len(places)))
    chosen = [(place, KINDS[number % 2]) for number, place in enumerate(chosen)]
    while len(chosen) < kills:
        chosen.append((rng.choice(places), KINDS[2 + len(chosen) % 2]))
    found = [[] for _ in runs]
    for (number, stage), kind in chosen:
        trains = (TASKS | READOUTS)[kind_of(stage)].trains
        step = rng.randint(1, 4 * EPOCHS - 2) if trains else 0
        delay = rng.uniform(0, 6 if kind == 'start' else 0.2)
        found[number].append(Moment(stage, step, kind, delay))
    for run, own in zip(runs, found, strict=True):
        # What comes when a stage ends comes behind all its steps.
        own.sort(key=lambda m: (run.stages.index(m.stage), m.kind == 'change', m.step))
    return found


def kill_once(run: Run, moment: Moment, fault: str) -> str | None:
    """Starts the run and kills it at the moment; what was going on, None if it ended before."""
    process = run.start(fault)
    while not has_come(run, moment):
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f'A run failed: see {run.folder / "said"}.')
            return None
        time.sleep(0.003)
    time.sleep(moment.delay if moment.kind != 'save' else 0)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return None
    return f'killed in a {moment.kind}, {situation(run, moment.stage)}'


def has_come(run: Run, moment: Moment) -> bool:
    partial, finished = (run.stage_folder(moment.stage, which) for which in (True, False))
    if moment.kind == 'start':
        return True
    if finished or (partial and (partial / 'bundle.json').exists()):
        return True
    if moment.kind == 'change' or partial is None or logged(partial) < moment.step:
        return False
    return moment.kind == 'step' or any(partial.glob('checkpoints/*.orbax-checkpoint-tmp*'))


def logged(folder: pathlib.Path) -> int:
    log = folder / 'metrics.jsonl'
    return log.read_bytes().count(b'\n') if log.is_file() else 0


def situation(run: Run, stage: str) -> str:
    """What the kill has left of the stage."""
    partial = run.stage_folder(stage, True)
    if partial is None:
        return 'finished' if run.stage_folder(stage, False) else 'not begun'
    saves = len(list(partial.glob('checkpoints/*.orbax-checkpoint-tmp*')))
    return f'{logged(partial)} steps logged, {saves} saves under way'
