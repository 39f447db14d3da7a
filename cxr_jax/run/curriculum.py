"""The method, top to bottom: backbone -> stage -> stage -> classifier -> evaluation -> report."""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from cxr_jax import report
from cxr_jax.evaluation.metrics import BOXES, attention_figures, classification_figures
from cxr_jax.evaluation.predict import gallery_arrays, predict
from cxr_jax.models.encoder import build_backbone, network_name
from cxr_jax.models.torch_names import load_weights
from cxr_jax.run.embedded import DATA_DIR
from cxr_jax.run.plan import Plan, make_plan
from cxr_jax.run.stage import Outcome, run_stage
from cxr_jax.run.workdir import claim_workdir
from cxr_jax.runtime import hosts, parallel
from cxr_jax.store import provenance, trees
from cxr_jax.store.claim import Claim
from cxr_jax.store.files import write_atomically
from cxr_jax.train.stage import stage_seed
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import PreparedData, open_prepared

PREDICTIONS_FILE = 'predictions.npz'
# What it holds of every labelled test image: fields of evaluate.Predictions.
PREDICTIONS = (
    'probabilities', 'labels', 'patients', 'image_ids', 'ail', 'lung_area', 'box_attention',
    'box_area',
)  # fmt: skip


def run(config: ConfigDict, workdir: pathlib.Path, banner: str = '', command: str = '') -> dict:
    """Trains and evaluates the curriculum of `config`; returns the results of results.json.

    Finished stages come from the store, a finished run from `workdir`. Raises UserError for what
    the user has to change, Busy where another process is at work and Interrupted after saving on
    SIGTERM.
    """
    # 1. The data, and everything that can be decided or refused without training.
    config = ConfigDict(config.to_dict())
    data = open_data(config)
    mesh = parallel.data_mesh()
    plan = make_plan(config, data, mesh.size)
    if not hosts.same(plan.stages[-1].key):
        raise UserError(
            'The processes were started with different settings, weights or versions of this code.'
        )
    found = hosts.on_first(claim_workdir, workdir, config, data, plan.stages[-1].key)
    if found:
        return found
    with hosts.first_holds(Claim(workdir / '.run', f'the run {workdir}').held()):
        return _run(config, data, mesh, plan, workdir, banner, command)


def _run(config, data, mesh, plan: Plan, workdir: pathlib.Path, banner: str, command: str) -> dict:
    """Steps 2 to 5 of `run`, for the process that holds the claim on the workdir."""
    announce(config, plan, data, mesh)

    # 2. The backbone, fresh or from the named weights.
    contract = data.contract(config.data.region)
    backbone = build_backbone(config.backbone, contract['mean'], contract['std'])
    parent = initial_backbone(config, backbone, plan.stages[0].task.image_size)

    # 3. The stages: each starts from the backbone that the one before it left.
    store = store_of(config, workdir)
    outcomes: list[Outcome] = []
    for stage in plan.stages:
        record = origin(config, data, plan.notes[stage.name])
        outcome = run_stage(stage, backbone, parent, mesh, store, record)
        announce_stage(outcome)
        parent = trees.hand_over_backbone(outcome.backbone(), parent, f'stage {stage.name}')
        outcomes.append(outcome)

    # 4. The classifier on every test image.
    classifier = plan.stages[-1].task
    tested = plan.stages[-1].data
    predictions = predict(
        classifier, backbone, outcomes[-1].variables, tested, mesh, config.data.region, 'test',
        config.eval.batch_size,
    )  # fmt: skip

    # 5. The report.
    def write_all() -> dict:
        results = assemble(config, plan, outcomes, tested, predictions, workdir, banner, command)
        labelled = predictions.labels >= 0
        table = {name: getattr(predictions, name)[labelled] for name in PREDICTIONS}
        write_atomically(workdir / PREDICTIONS_FILE, lambda path: _save_table(path, table))
        chosen = report.choose_examples(predictions.probabilities, predictions.labels)
        region = config.data.region
        report.write_report(
            workdir,
            results,
            curves=[outcome.metrics for outcome in outcomes],
            predictions={name: table[name] for name in ('probabilities', 'labels')},
            gallery=gallery_arrays(predictions, chosen, classifier, tested, region, 'test'),
        )
        return results

    return hosts.on_first(write_all)


def open_data(config: ConfigDict) -> PreparedData:
    """The prepared set that `config.data` names, the same one for every process."""
    section = config.data
    data = open_prepared(section.dir or DATA_DIR, section.name, section.size, section.masks)
    if not hosts.same(data.fingerprint):
        raise UserError(
            f'{data.directory} holds different data on different hosts; copy one of them to all.'
        )
    return data


def store_of(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Folder of the trained stages."""
    return pathlib.Path(config.store) if config.store else workdir.parent / 'stages'


def _save_table(path: pathlib.Path, table: dict) -> None:
    with open(path, 'wb') as file:  # np.savez would add a suffix to a path
        np.savez_compressed(file, **table)


def initial_backbone(config: ConfigDict, backbone, size: int) -> dict:
    """{'params', 'batch_stats'} at the start of the curriculum."""
    key = jax.random.key(stage_seed(config.seed, 'backbone'))
    if not config.backbone.weights:
        params, batch_stats = jax.jit(backbone.init, static_argnums=1)(key, size)
    else:
        params, batch_stats = jax.eval_shape(lambda: backbone.init(key, size))
        params, batch_stats = load_weights(config.backbone.weights, params, batch_stats)
    return {'params': params, 'batch_stats': batch_stats}


def origin(config: ConfigDict, data: PreparedData, notes: list[str]) -> dict:
    """What every stage records of where it comes from."""
    return {
        'config': provenance.plain(config.to_dict()),
        'notes': notes,
        'versions': provenance.versions(),
        'git': provenance.git_state(),
        'device': provenance.devices(),
        'data': {'name': data.name, 'fingerprint': data.fingerprint},
    }


def announce(config: ConfigDict, plan: Plan, data: PreparedData, mesh) -> None:
    """What is about to run, with every value that was chosen for the user."""
    names = ' -> '.join(stage.name for stage in plan.stages)
    processes = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    images = f'{data.counts["train"]} training images'
    print(f'{names} on {data.name} ({images}), {mesh.size} device(s){processes}')
    for stage in plan.stages:
        for note in plan.notes[stage.name]:
            print(f'  {stage.name}: {note}')


def announce_stage(outcome: Outcome) -> None:
    manifest = outcome.manifest
    state = 'found finished' if outcome.reused else f'trained in {manifest["wall_seconds"]:.0f} s'
    metrics = ', '.join(
        f'{k} {v:.4g}'
        for k, v in manifest['final_metrics'].items()
        if k not in ('grad_norm', 'learning_rate')
    )
    print(f'{manifest["task"]}: {state} ({metrics})', flush=True)


def assemble(
    config: ConfigDict, plan: Plan, outcomes: list[Outcome], data: PreparedData, predictions,
    workdir: pathlib.Path, banner: str, command: str,
) -> dict:  # fmt: skip
    """Everything that the report shows, in the schema of cxr_jax.report."""
    labelled = predictions.labels >= 0
    seed, resamples = config.seed, config.eval.resamples
    rows = [v[labelled] for v in (predictions.labels, predictions.patients)]
    backbone = config.backbone
    return {
        'name': workdir.name,
        'banner': banner,
        'curriculum': [stage.name for stage in plan.stages],
        'preset': config.preset,
        'region': config.data.region,
        'seed': seed,
        'command': command,
        'backbone': f'{network_name(backbone.depth)}, width {backbone.width}, '
        f'{backbone.channels} channel',
        'data': {
            'name': data.name,
            'fingerprint': data.fingerprint,
            'size': data.size,
            'classes': list(data.classes),
            'counts': data.counts,
            'class_counts': data.class_counts,
            'has_patient_ids': data.has_patient_ids,
        },
        'stages': [
            _stage_row(stage, outcome, plan.notes[stage.name])
            for stage, outcome in zip(plan.stages, outcomes, strict=True)
        ],
        'test': classification_figures(
            predictions.probabilities[labelled], *rows, data.classes, seed, resamples
        ),
        'attention': attention_figures(
            predictions.ail[labelled], predictions.lung_area[labelled], *rows, data.classes, seed,
            resamples,
        ),
        'boxes': attention_figures(
            predictions.box_attention[labelled], predictions.box_area[labelled], *rows,
            data.classes, seed, resamples, BOXES,
        ),
        'params_sha256': outcomes[-1].manifest['sha256'],
        'versions': provenance.versions(),
        'device': provenance.devices(),
    }  # fmt: skip


def _stage_row(stage, outcome: Outcome, notes: list[str]) -> dict:
    manifest = outcome.manifest
    places = [{k: session[k] for k in ('versions', 'device')} for session in manifest['sessions']]
    if any(place != places[0] for place in places):
        notes = [*notes, 'its sessions ran with different versions or devices (see its manifest)']
    if manifest['search']:
        lr, searched = manifest['learning_rate'], manifest['search']
        notes = [*notes, f'{lr:g} was chosen after {searched["total_epochs"]} epochs of trials']
    return {
        'task': stage.name,
        'key': stage.key,
        'parent_key': stage.parent_key or '',
        'epochs': stage.config.epochs,
        'steps': manifest['steps'],
        'batch_size': manifest['batch_size'],
        'learning_rate': manifest['learning_rate'],
        'wall_seconds': manifest['wall_seconds'],
        'images_per_second': manifest['images_per_second'],
        'metrics': manifest['final_metrics'] | {'chance_loss': stage.task.chance_loss()},
        'resumed': manifest['resumed'],
        'reused': outcome.reused,
        'search': manifest['search'],
        'notes': notes,
    }
