"""What a run tells: on the console while it works, and as the dict of results.json."""

import pathlib

import jax
import numpy as np

from cxr_jax import report
from cxr_jax.evaluation import alarms, measures
from cxr_jax.evaluation.measures.attention import BOXES
from cxr_jax.evaluation.predict import Predictions, gallery_arrays
from cxr_jax.run.plan import Plan
from cxr_jax.run.stage import Outcome
from cxr_jax.run.workdir import settings_of
from cxr_jax.store import provenance
from cxr_jax.train.log import read_metrics
from cxr_jax.train.monitor import HEALTH_FILE
from cxr_jax.train.probing import PROBES_FILE
from cxr_jax.train.stage import Stage

PREDICTIONS_FILE = 'predictions.npz'  # of a workdir: what the measures are computed from


def origin(plan: Plan, name: str) -> dict:
    """What every stage records of where it comes from."""
    return {
        'run': settings_of(plan),
        'notes': plan.notes[name],
        'versions': provenance.versions(),
        'git': provenance.git_state(),
        'device': provenance.devices(),
    }


def announce(plan: Plan, mesh, audited: list[str]) -> None:
    """What is about to run, with every value that was chosen for the user, and what is known to
    be wrong with its images."""
    names = ' -> '.join(plan.settings.stages)
    processes = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    folds = f', {len(plan.branches)} folds' if len(plan.branches) > 1 else ''
    print(f'{names}{folds}, {mesh.size} device(s){processes}')
    for branch in plan.branches:
        fold = '' if branch.fold is None else f'fold {branch.fold + 1}: '
        for stage in branch.stages:
            print(f'  {fold}{stage.name}: {_images(stage)}')
    for name, notes in plan.notes.items():
        for note in notes:
            print(f'  {name}: {note}')
    for sentence in audited:
        print(f'  audit: {sentence}')


def _images(stage: Stage) -> str:
    corpus, left = stage.train.corpus, stage.left_out
    told = f'{len(corpus):,} images of {corpus.title}'
    if left.images:
        told += (
            f'; {left.images:,} left out: {left.same_patient:,} of patients who are validated or '
            f'tested on, {left.same_content:,} copies of such images'
        )
    return told


def announce_stage(outcome: Outcome, fold: int | None) -> None:
    """What came out of a stage, in one line."""
    told = outcome.description
    done = f'{"trained" if told["steps"] else "done"} in {told["wall_seconds"]:.0f} s'
    state = 'found finished' if outcome.reused else done
    metrics = ', '.join(
        f'{k} {v:.4g}'
        for k, v in told['final_metrics'].items()
        if k not in ('grad_norm', 'learning_rate')
    )
    place = '' if fold is None else f' (fold {fold + 1})'
    print(f'{told["stage"]}{place}: {state}{f" ({metrics})" if metrics else ""}', flush=True)


def assemble(
    plan: Plan, outcomes: list[list[Outcome]], table: dict | None, name: str, banner: str,
    command: str,
) -> dict:  # fmt: skip
    """Everything that the report shows, in the schema of cxr_jax.report."""
    run, target = plan.settings.run, plan.data.target
    test = attention = boxes = None
    no_maps = plan.stages[-1].task.no_maps if table else ''
    if table:
        of_table = (table, target.names, target.exclusive, run.seed, run.eval.resamples)
        test = measures.evaluate(*of_table)
        attention = measures.attention_figures(*of_table)
        boxes = measures.attention_figures(*of_table, BOXES)
    rows = [
        _stage_row(stage, outcome, branch.fold, plan.notes[stage.name])
        for branch, found in zip(plan.branches, outcomes, strict=True)
        for stage, outcome in zip(branch.stages, found, strict=True)
    ]
    encoder = run.encoder
    return {
        'name': name,
        'banner': banner,
        'curriculum': list(plan.settings.stages),
        'preset': run.preset,
        'region': run.data.region,
        'seed': run.seed,
        'command': command,
        'encoder': f'{encoder.name}, width {encoder.width}, {encoder.channels} channel',
        'folds': run.data.folds,
        'data': _data(plan),
        'stages': rows,
        'test': test,
        'no_maps': no_maps,
        'attention': attention,
        'boxes': boxes,
        'bundles': [found[-1].folder.name for found in outcomes],
        'params_sha256': [found[-1].description['params_sha256'] for found in outcomes],
        'bytes': sum(_bytes(outcome.folder) for found in outcomes for outcome in found),
        'versions': provenance.versions(),
        'device': provenance.devices(),
    }


def watched(outcome: Outcome) -> dict:
    """What the monitors of a stage saw, for the report's figure."""
    files = {'looks': HEALTH_FILE, 'probes': PROBES_FILE}
    return {name: read_metrics(outcome.folder / file) for name, file in files.items()}


def _data(plan: Plan) -> dict:
    """The run's own set; of a run without one, the sets of its first stage."""
    target, splits = plan.data.target, plan.data.splits[0]
    first = plan.stages[0].train.corpus
    corpora = {'train': first}
    if splits and not plan.settings.run.data.folds:
        corpora = {name: getattr(splits, name) for name in ('train', 'validation', 'test')}
    elif splits:
        corpora = {'all': plan.data.own.corpus()}
    told = plan.data.own or first
    return {
        'name': plan.data.own.name if plan.data.own else first.title,
        'fingerprint': told.fingerprint,
        'size': plan.settings.run.data.size,
        'names': list(target.names) if target else [],
        'exclusive': target.exclusive if target else True,
        'counts': {name: len(corpus) for name, corpus in corpora.items()},
        'name_counts': {n: target.counts(c) if target else [] for n, c in corpora.items()},
        'has_patient_ids': all(
            corpus.describe()['has_patient_ids'] for corpus in corpora.values() if len(corpus)
        ),
    }


def _bytes(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def _stage_row(stage: Stage, outcome: Outcome, fold: int | None, notes: list[str]) -> dict:
    told = outcome.description
    places = [{k: session[k] for k in ('versions', 'device')} for session in told['sessions']]
    if any(place != places[0] for place in places):
        notes = [*notes, 'its sessions ran with different versions or devices (see its bundle)']
    stopped = told.get('early_stop')
    if stopped:
        value = '' if stopped['value'] is None else f' ({stopped["by"]} {stopped["value"]:.4g})'
        notes = [*notes, f'early stop by {stopped["by"]}: it leaves what it was after epoch '
                 f'{stopped["epoch"]}{value}, the best of {told["epochs"]} epochs of at most '
                 f'{stage.settings.epochs}']  # fmt: skip
    if told['search']:
        lr, searched = told['learning_rate'], told['search']
        notes = [*notes, f'{lr:g} was chosen after {searched["total_epochs"]} epochs of trials']
    same = (
        'key', 'epochs', 'steps', 'batch_size', 'learning_rate', 'wall_seconds',
        'images_per_second', 'resumed', 'search', 'data',
    )  # fmt: skip
    return {name: told[name] for name in same} | {
        'stage': stage.name,
        'fold': fold,
        'parent_key': stage.parent_key or '',
        'metrics': told['final_metrics'] | {'chance_loss': told['chance_loss']},
        'reused': outcome.reused,
        'notes': notes,
        'alarms': [
            {'alarm': name, 'from': begin, 'to': end}
            for name, begin, end in alarms.spans(read_metrics(outcome.folder / HEALTH_FILE))
        ],
    }


def gallery_of(plan: Plan, predictions: list[Predictions]) -> dict | None:
    """The arrays of the gallery's images, from whatever fold they were tested in; None without
    activation maps, which are what it shows."""
    if any(each.cams is None for each in predictions):
        return None
    table = whole_table(predictions)
    scores, labels = table['scores'], table['labels']
    chosen, start, parts = report.choose_examples(scores, labels), 0, []
    for branch, own in zip(plan.branches, predictions, strict=True):
        rows = np.sort(chosen[(chosen >= start) & (chosen < start + len(own.labels))]) - start
        start += len(own.labels)
        if len(rows):
            task, corpus = branch.stages[-1].task, branch.tested.corpus
            contract = branch.encoder.contract
            parts.append(gallery_arrays(own, rows, task.image_size, contract, corpus))
    masks = all(part['masks'] is not None for part in parts)
    names = [name for name in parts[0] if name != 'masks' or masks]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return {'masks': None} | joined


def whole_table(predictions: list[Predictions]) -> dict[str, np.ndarray]:
    """The tables of all folds as one."""
    tables = [each.table() for each in predictions]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def save_table(path: pathlib.Path, table: dict) -> None:
    """The table as a compressed npz file."""
    with open(path, 'wb') as file:  # np.savez would add a suffix to a path
        np.savez_compressed(file, **table)
