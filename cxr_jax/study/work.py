"""python -m cxr_jax.study --config configs/study.py:demo [--workdir DIR]

Runs a list of curricula x regions x class sets x seeds and compares them. Started several times
(here or on other hosts that see the same folder), the processes share the work: every stage is
trained once. Exit codes as in cxr_jax.runtime.command_line.
"""

import dataclasses
import json
import pathlib
import shlex
import sys
import time

import numpy as np
from ml_collections import ConfigDict

from cxr_jax.report.study_console import format_study
from cxr_jax.report.study_writer import write_study
from cxr_jax.run import curriculum, embedded
from cxr_jax.run.plan import CLASSIFIER, Plan, make_plan
from cxr_jax.run.workdir import RESULTS_FILE
from cxr_jax.runtime import command_line, hosts, parallel
from cxr_jax.store.claim import Busy
from cxr_jax.store.stages import MANIFEST, StageDirectory
from cxr_jax.study.comparison import compare_all, label_order
from cxr_jax.study.seed_means import summarise
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import PreparedData

EXAMPLE = '--config configs/study.py:demo'
ALL, IMAGENET, SCRATCH = 'all', 'imagenet', 'scratch'
STORE = 'stages'
KINDS = ('baseline', 'single', 'pair', 'triple')
WAIT_SECONDS = 5.0
COMPILE_SECONDS = 20.0  # added to the estimate of every stage


@dataclasses.dataclass(frozen=True)
class Job:
    """One curriculum in one region, from one seed, for one set of classes."""

    name: str
    tasks: tuple[str, ...]
    region: str
    class_set: str
    seed: int
    config: ConfigDict
    plan: Plan
    workdir: pathlib.Path

    @property
    def title(self) -> str:
        return f'{self.name}, {self.region}, {self.class_set} classes, seed {self.seed}'

    @property
    def kind(self) -> str:
        return KINDS[len(self.tasks)] if len(self.tasks) < len(KINDS) else 'longer'


def main() -> None:
    """Runs the study of the flags."""
    config = ConfigDict(command_line.CONFIG.value.to_dict())
    banner = embedded.BANNER if config.run.data.name == embedded.NAME else ''
    if banner:
        print(f'*** {banner} ***', flush=True)
    hosts.on_first(embedded.prepare_if_missing, config.run)
    workdir = pathlib.Path(command_line.WORKDIR.value or f'runs/study-{config.name}')
    command = shlex.join(['python', '-m', 'cxr_jax.study', *sys.argv[1:]])
    run(config, workdir, banner, command)
    print(f'\nReport: {workdir / "study.md"}')


def run(config: ConfigDict, workdir: pathlib.Path, banner: str = '', command: str = '') -> dict:
    """Trains what is missing, compares and reports; returns the dict of study.json."""
    # 1. Every run of the study, and what they share.
    data = curriculum.open_data(config.run)
    jobs = plan_jobs(config, data, workdir)
    planned = hosts.on_first(count_stages, jobs, workdir / STORE)
    announce(config, jobs, planned, workdir / STORE)

    # 2. The runs; what another process is at work on is left for later.
    started = time.monotonic()
    work_through(jobs, banner, command)
    planned['seconds'] = round(time.monotonic() - started, 1)

    # 3. Comparisons on the same test images, tables, plots.
    def write_all() -> dict:
        study = assemble(config, data, jobs, planned, banner, command, workdir)
        write_study(workdir, study)
        return study

    study = hosts.on_first(write_all)
    print(format_study(study))
    return study


def plan_jobs(config: ConfigDict, data: PreparedData, workdir: pathlib.Path) -> list[Job]:
    """All runs in an order in which shared stages come first; UserError for what cannot run."""
    devices = parallel.data_mesh().size
    names = list(dict.fromkeys(config.curricula))
    if IMAGENET in names and not config.imagenet_weights:
        names.remove(IMAGENET)
    jobs = []
    for class_set in config.class_sets:
        for region in config.regions:
            for seed in config.seeds:
                for name in names:
                    jobs.append(_job(name, region, class_set, seed, config, workdir))
    if not jobs:
        raise UserError('The study is empty: list curricula, regions, class_sets and seeds.')
    planned = []
    for job in jobs:
        try:
            plan = make_plan(job.config, data, devices)
        except UserError as error:
            raise UserError(f'{job.title}: {error}') from None
        planned.append(dataclasses.replace(job, plan=plan))
    return planned


def _job(name: str, region: str, class_set: str, seed: int, config, workdir) -> Job:
    """A run of the study, not planned yet."""
    tasks = () if name in (SCRATCH, IMAGENET) else tuple(name.split('_'))
    each = ConfigDict(config.run.to_dict())
    unknown = [task for task in tasks if task not in each.stage or task == CLASSIFIER]
    if unknown or len(set(tasks)) < len(tasks):
        raise UserError(
            f'{name!r} in --config.curricula is not understood: join different pretext tasks by _ '
            f'({", ".join(t for t in each.stage if t != CLASSIFIER)}), or write scratch or '
            'imagenet.'
        )
    each.curriculum, each.seed, each.data.region = tasks, seed, region
    each.data.classes = () if class_set == ALL else tuple(class_set.split('/'))
    each.backbone.weights = config.imagenet_weights if name == IMAGENET else ''
    each.stage = ConfigDict({task: each.stage[task] for task in (*tasks, CLASSIFIER)})
    each.store = str(workdir / STORE)
    folder = workdir / 'runs' / f'{region}-{class_set.replace("/", "-")}' / f'{name}-seed{seed}'
    return Job(name, tasks, region, class_set, seed, each, None, folder)


def count_stages(jobs: list[Job], store: pathlib.Path) -> dict:
    """Numbers of curricula, runs and stages, and the time that the rest will take (None: unknown).

    A rate is that of the finished stages of the same task in this store.
    """
    stages = [stage for job in jobs for stage in job.plan.stages]
    distinct = {stage.key: stage for stage in stages}
    missing = [
        s for s in distinct.values() if not StageDirectory(store, s.name, s.key).finished.is_dir()
    ]
    rates = {}
    for path in store.glob(f'*/{MANIFEST}'):
        manifest = json.loads(path.read_text())
        if manifest['images_per_second']:
            rates.setdefault(manifest['task'], []).append(manifest['images_per_second'])
    known = all(stage.name in rates for stage in missing)
    seconds = sum(
        COMPILE_SECONDS + _images(stage) / float(np.median(rates[stage.name]))
        for stage in missing
        if stage.name in rates
    )
    return {
        'curricula': len({job.name for job in jobs}),
        'runs': len(jobs),
        'stages': len(stages),
        'distinct': len(distinct),
        'shared': len(stages) - len(distinct),
        'trained': len(missing),
        'found': len(distinct) - len(missing),
        'estimated_seconds': round(seconds, 1) if known else None,
        'missing': sorted({f'{stage.name}-{stage.key}' for stage in missing}),
    }


def _images(stage) -> int:
    """Images that the stage is trained on, those of its search included (at most)."""
    searched = 0
    if stage.search:
        searched = sum(stage.search.epochs * trial.facts.images for trial in stage.search.trials)
    return stage.total_steps * stage.facts.batch_size + searched


def announce(config: ConfigDict, jobs: list[Job], planned: dict, store: pathlib.Path) -> None:
    """The plan, before anything trains."""
    print(
        f'{planned["curricula"]} curricula, {len(config.regions)} region(s), '
        f'{len(config.class_sets)} set(s) of classes, {len(config.seeds)} seed(s): '
        f'{planned["runs"]} runs of {planned["stages"]} stages, {planned["distinct"]} of them '
        f'distinct ({planned["shared"]} trainings saved by sharing); {planned["found"]} found '
        f'finished in {store}, {planned["trained"]} to train.'
    )
    if IMAGENET in config.curricula and not config.imagenet_weights:
        print(
            'The curriculum imagenet is left out: name its weights '
            "(--config.imagenet_weights=FILE.safetensors, torchvision's names)."
        )
    seconds = planned['estimated_seconds']
    if seconds is None:
        print('Estimated time: unknown until a stage of each task has been trained in this store.')
    elif planned['trained']:
        print(f'Estimated time: {seconds / 60:.0f} minutes for one process.')
    for note in sorted({f'  {s.name}: {n}' for j in jobs for s in j.plan.stages
                        for n in j.plan.notes[s.name]}):  # fmt: skip
        print(note)
    sys.stdout.flush()


def work_through(jobs: list[Job], banner: str, command: str) -> None:
    """Runs every job, those first that no other process is at work on."""
    waiting, done = list(jobs), 0
    while waiting:
        busy = []
        for job in waiting:
            print(f'\n=== {done + 1} of {len(jobs)}: {job.title} ===', flush=True)
            try:
                results = curriculum.run(job.config, job.workdir, banner, command)
            except Busy as reason:
                print(f'Left for later: {reason}', flush=True)
                busy.append(job)
                continue
            done += 1
            accuracy = results['test']['balanced_accuracy']['value']
            print(f'balanced accuracy {100 * accuracy:.1f} %', flush=True)
        if len(busy) == len(waiting):
            print(f'{len(busy)} runs wait for other processes.', flush=True)
            time.sleep(WAIT_SECONDS)
        waiting = busy


def assemble(
    config: ConfigDict, data: PreparedData, jobs: list[Job], planned: dict, banner: str,
    command: str, workdir: pathlib.Path,
) -> dict:  # fmt: skip
    """study.json: see cxr_jax.report.study_writer."""
    runs = [_run_row(job, workdir) for job in jobs]
    tables = [row | {'predictions': _predictions(job)} for row, job in zip(runs, jobs, strict=True)]
    means = summarise(tables, config.run.eval.resamples, config.run.seed)
    single = {
        (mean['region'], mean['class_set'], mean['name']): mean['balanced_accuracy']['value']
        for mean in means
        if mean['kind'] == 'single'
    }
    pretext = sorted({task for job in jobs for task in job.tasks})
    for row in runs:
        place = row['region'], row['class_set']
        alone = {task: single.get((*place, task)) for task in pretext}
        row['label'] = label_order(row['tasks'], alone, pretext)
    return {
        'name': config.name,
        'command': command,
        'banner': banner,
        'classes': list(data.classes),
        'data': json.loads((jobs[0].workdir / RESULTS_FILE).read_text())['data'],
        'regions': list(config.regions),
        'seeds': list(config.seeds),
        'curricula': runs,
        'means': means,
        'plan': planned,
        'comparisons': compare_all(tables, resamples=config.resamples, seed=config.run.seed),
    }


def _run_row(job: Job, workdir: pathlib.Path) -> dict:
    results = json.loads((job.workdir / RESULTS_FILE).read_text())
    return {
        'name': job.name,
        'tasks': list(job.tasks),
        'kind': job.kind,
        'label': '',
        'region': job.region,
        'class_set': job.class_set,
        'seed': job.seed,
        'directory': str(job.workdir.relative_to(workdir)),
        **{key: results[key] for key in ('test', 'attention', 'boxes', 'stages')},
        'searches': [stage['search'] for stage in results['stages'] if stage['search']],
    }


def _predictions(job: Job) -> dict:
    with np.load(job.workdir / curriculum.PREDICTIONS_FILE) as table:
        return dict(table)

