"""python -m cxr_jax.study --config configs/study.py:demo [--workdir DIR]

Runs a grid of curricula, regions, classes, seeds or whatever its config varies, and compares.
Started several times (here or on other hosts that see the same folder), the processes share the
work: every stage is trained once. Exit codes as in cxr_jax.runtime.command_line.
"""

import contextlib
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from cxr_jax.report.study_console import format_study
from cxr_jax.report.study_writer import write_study
from cxr_jax.run import curriculum, embedded
from cxr_jax.run.corpora import needed_sets, open_sets
from cxr_jax.run.plan import Plan, make_plan
from cxr_jax.run.results import PREDICTIONS_FILE
from cxr_jax.run.settings import read_config
from cxr_jax.run.workdir import RESULTS_FILE
from cxr_jax.runtime import command_line, hosts, parallel
from cxr_jax.store.bundle import BUNDLE, read_description
from cxr_jax.store.claim import Busy
from cxr_jax.store.files import Damaged
from cxr_jax.store.stages import StageDirectory
from cxr_jax.study import collect, comparison
from cxr_jax.study.grid import (
    CURRICULUM,
    IMAGENET,
    Cell,
    axes_of,
    cells,
    layout_of,
    run_config,
)
from cxr_jax.study.models import Finished
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import PreparedSet
from data_pipelines.storage import places, units

EXAMPLE = '--config configs/study.py:demo'
STORE = 'stages'
RUNS = 'runs'
WAIT_SECONDS = 5.0
COMPILE_SECONDS = 20.0  # added to the estimate of every stage


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell, its pretext stages, what they are planned to be, and the folder of its run."""

    cell: Cell
    tasks: tuple[str, ...]
    plan: Plan
    workdir: pathlib.Path


def main() -> None:
    """Runs the study of the flags."""
    config = ConfigDict(command_line.CONFIG.value.to_dict())
    banner = embedded.BANNER if config.run.data.name == embedded.NAME else ''
    if banner:
        print(f'*** {banner} ***', flush=True)
    workdir = command_line.workdir(f'runs/study-{config.name}')
    hosts.on_first(embedded.prepare_if_missing, config.run)
    command = shlex.join(['python', '-m', 'cxr_jax.study', *sys.argv[1:]])
    run(config, workdir, banner, command)
    print(f'\nReport: {places.name_of(workdir / "study.md")}')


def run(config: ConfigDict, workdir: pathlib.Path, banner: str = '', command: str = '') -> dict:
    """Trains what is missing, compares and reports; returns the dict of study.json."""
    # 1. Every run of the study, and what they share.
    jobs = plan_jobs(config, workdir)
    planned = hosts.on_first(count_stages, jobs, workdir / STORE)
    announce(config, jobs, planned, workdir / STORE)

    # 2. The runs; what another process is at work on is left for later.
    started = time.monotonic()
    work_through(jobs, banner, command)
    planned['seconds'] = round(time.monotonic() - started, 1)

    # 3. Comparisons on the same images, tables, plots.
    def write_all() -> dict:
        finished = [read(job, workdir) for job in jobs]
        planned['bytes'] = sum(
            path.stat().st_size
            for folder in _folders(jobs, workdir / STORE).values()
            for path in folder.rglob('*')
            if path.is_file()
        )
        study = {'name': config.name, 'command': command, 'banner': banner, 'plan': planned}
        study |= collect.assemble(config, axes_of(config), finished)
        write_study(workdir, study)
        units.push(workdir, skip=(STORE, RUNS))
        return study

    study = hosts.on_first(write_all)
    print(format_study(study))
    return study


def plan_jobs(config: ConfigDict, workdir: pathlib.Path) -> list[Job]:
    """All runs in an order in which shared stages come first; UserError for what cannot run."""
    axes, devices = axes_of(config), parallel.data_mesh().size
    layout_of(config, axes)
    comparison.check(config.compare, axes)
    grid = cells(axes, config.seeds)
    stages = dict.fromkeys(
        stage for cell in grid for stage in cell.overrides.get(CURRICULUM, config.run.curriculum)
    )
    configs = [run_config(config.run, cell, stages) for cell in grid]
    jobs = []
    sets = opened(configs)
    for cell, each in zip(grid, configs, strict=True):
        each.store = str(workdir / STORE)
        try:
            plan = make_plan(each, next(sets), devices)
        except UserError as error:
            raise UserError(f'{cell.title}: {error}') from None
        jobs.append(Job(cell, tuple(each.curriculum), plan, workdir / RUNS / cell.folder))
    return jobs


def opened(configs: Iterable[ConfigDict]) -> Iterator[dict[str, PreparedSet]]:
    """The prepared sets of every config; configs that read the same ones share them."""
    found = {}
    for each in configs:
        settings = read_config(each)
        data = settings.run.data
        what = data.dir, data.size, data.masks, needed_sets(settings)
        if what not in found:
            found[what] = open_sets(each)
        yield found[what]


def _folders(jobs: Iterable[Job], store: pathlib.Path) -> dict[str, pathlib.Path]:
    """Key of every stage -> its folder when it is finished."""
    stages = {stage.key: stage for job in jobs for stage in job.plan.stages}
    return {key: StageDirectory(store, s.name, key).finished for key, s in stages.items()}


def count_stages(jobs: Sequence[Job], store: pathlib.Path) -> dict:
    """Numbers of runs and stages, and the time that the rest will take (None: unknown)."""
    stages = [stage for job in jobs for stage in job.plan.stages]
    distinct = {stage.key: stage for stage in stages}
    folders = _folders(jobs, store)
    there = {path.parent.name for path in units.find(store, f'*/{BUNDLE}')}
    missing = [
        stage for key, stage in distinct.items()
        if not (folders[key].is_dir() or folders[key].name in there)
    ]  # fmt: skip
    rates = rates_of(store)
    known = all(stage.kind in rates for stage in missing)
    seconds = sum(
        COMPILE_SECONDS + _images(stage) / rates[stage.kind] for stage in missing if known
    )
    return {
        'runs': len(jobs),
        'stages': len(stages),
        'distinct': len(distinct),
        'shared': len(stages) - len(distinct),
        'trained': len(missing),
        'found': len(distinct) - len(missing),
        'estimated_seconds': round(seconds, 1) if known else None,
        'missing': sorted(folders[stage.key].name for stage in missing),
    }


def rates_of(store: pathlib.Path) -> dict[str, float]:
    """Images per second of each task: the median of the finished stages in this store."""
    found: dict[str, list[float]] = {}
    for path in store.glob(f'*/{BUNDLE}'):
        # What cannot be read is told by the run that needs it.
        with contextlib.suppress(Damaged, UserError, OSError):
            told = read_description(path.parent)
            if told.get('images_per_second'):
                found.setdefault(told['task'], []).append(told['images_per_second'])
    return {task: float(np.median(rates)) for task, rates in found.items()}


def _images(stage) -> int:
    """Images that the stage is trained on, those of its search included (at most)."""
    searched = 0
    if stage.search:
        epochs = stage.search.settings.epochs
        searched = sum(epochs * trial.facts.images for trial in stage.search.trials)
    return stage.total_steps * stage.facts.batch_size + searched


def announce(config: ConfigDict, jobs: Sequence[Job], planned: dict, store: pathlib.Path) -> None:
    """The plan, before anything trains."""
    sizes = ' x '.join(f'{len(axis.levels)} {axis.name}' for axis in axes_of(config))
    print(
        f'{sizes} x {len(set(config.seeds))} seed(s): '
        f'{planned["runs"]} runs of {planned["stages"]} stages, {planned["distinct"]} of them '
        f'distinct ({planned["shared"]} trainings saved by sharing); {planned["found"]} found '
        f'finished in {places.name_of(store)}, {planned["trained"]} to train.'
    )
    if IMAGENET in config.axes.get(CURRICULUM, ()) and not config.imagenet_weights:
        print(
            'The curriculum imagenet is left out: name its weights '
            "(--config.imagenet_weights=FILE.safetensors, torchvision's names)."
        )
    seconds = planned['estimated_seconds']
    if seconds is None:
        print('Estimated time: unknown until a stage of each task has been trained in this store.')
    elif planned['trained']:
        print(f'Estimated time: {seconds / 60:.0f} minutes for one process.')
    notes = {
        f'  {stage}: {note}'
        for job in jobs
        for stage, of_stage in job.plan.notes.items()
        for note in of_stage
    }
    print(*sorted(notes), sep='\n', flush=True)


def work_through(jobs: Sequence[Job], banner: str, command: str) -> None:
    """Runs every job, those first that no other process is at work on."""
    waiting, done = list(jobs), 0
    while waiting:
        busy = []
        for job in waiting:
            print(f'\n=== {done + 1} of {len(jobs)}: {job.cell.title} ===', flush=True)
            try:
                results = curriculum.run(job.plan, job.workdir, banner, command)
            except Busy as reason:
                print(f'Left for later: {reason}', flush=True)
                busy.append(job)
                continue
            done += 1
            print(collect.headline_of(results), flush=True)
        if len(busy) == len(waiting):
            print(f'{len(busy)} runs wait for other processes.', flush=True)
            time.sleep(WAIT_SECONDS)
        waiting = busy


def read(job: Job, study: pathlib.Path) -> Finished:
    """What the run of a cell left in its folder, below that of the study."""
    results, table = json.loads((job.workdir / RESULTS_FILE).read_text()), None
    if results['test']:
        with np.load(job.workdir / PREDICTIONS_FILE) as arrays:
            table = {name: x for name, x in arrays.items() if name != 'names'}
    directory = job.workdir.relative_to(study).as_posix()
    return Finished(job.cell, job.tasks, directory, results, table)
