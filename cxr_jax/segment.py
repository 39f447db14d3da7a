"""Train a lung segmenter, and write its masks beside a prepared data set.

    python -m cxr_jax.segment train --config configs/segment.py [--workdir DIR]
    python -m cxr_jax.segment apply --config configs/segment.py --segmenter DIR --name NAME

`train` uses the images that have a lung mask. `apply` writes <prepared dir>/masks/NAME/ for every
image of the config's data; --config.data.masks=NAME then trains a curriculum with these masks.
With --model lung_vae --weights FILE the masks come from the published lungVAE instead. Exit codes
as in cxr_jax.runtime.command_line.
"""

import pathlib
import shlex
import sys

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cxr_jax.evaluation.overlap import dice_and_iou, mean_figures
from cxr_jax.report import segmentation
from cxr_jax.run import curriculum, embedded, segmenter
from cxr_jax.run.embedded import DATA_DIR
from cxr_jax.run.stage import run_stage
from cxr_jax.run.workdir import claim_workdir
from cxr_jax.runtime import command_line, parallel
from cxr_jax.store import provenance
from data_pipelines.errors import UserError
from data_pipelines.prepared import lung_quality, masks
from data_pipelines.prepared.data import PreparedData, Records, open_prepared
from data_pipelines.preparing.splits import assign_folds

SEGMENTER = flags.DEFINE_string('segmenter', None, 'apply: workdir of the trained segmenter.')
NAME = flags.DEFINE_string('name', None, 'apply: name of the masks.')
MODEL = flags.DEFINE_enum('model', 'unet', ('unet', 'lung_vae'), 'apply: whose masks.')
WEIGHTS = flags.DEFINE_string('weights', None, 'apply --model lung_vae: its safetensors file.')
EXAMPLE = '--config configs/segment.py'


def main(command: str) -> None:
    """Runs the command `train` or `apply` with the flags."""
    config = ConfigDict(command_line.CONFIG.value.to_dict())
    if jax.process_count() > 1:
        raise UserError('Segmenters are trained and applied by one process: no --distributed.')
    if config.data.name == embedded.NAME:
        print(f'*** {embedded.BANNER} ***', flush=True)
    embedded.prepare_if_missing(config)
    data = open_prepared(config.data.dir or DATA_DIR, config.data.name, config.data.size)
    words = shlex.join(['python', '-m', 'cxr_jax.segment', *sys.argv[1:]])
    if command == 'train':
        workdir = command_line.WORKDIR.value or f'runs/segment-{data.name}'
        train(config, data, pathlib.Path(workdir), words)
        print(f'\nReport: {pathlib.Path(workdir) / "results.md"}')
    else:
        if not NAME.value:
            raise UserError('Name the masks that are written: --name NAME.')
        mesh = parallel.data_mesh()
        check_config(config, mesh.size)
        predict, origin = chosen_model(config, mesh)
        origin |= {'command': words, 'versions': provenance.versions(),
                   'git': provenance.git_state()}  # fmt: skip
        apply(config, data, NAME.value, predict, origin)


def train(config: ConfigDict, data: PreparedData, workdir: pathlib.Path, command: str) -> dict:
    """Trains on the images of `data` with a lung mask, tests, reports; returns results.json.

    Without folds on the data's own splits, and the segmenter is saved into `workdir`; with folds
    every image is tested by the network that has not seen its patient, and none is saved.
    """
    mesh = parallel.data_mesh()
    check_config(config, mesh.size)
    parts = masked_parts(data, config.folds)
    stages = [segmenter.make_stage(config, part, mesh.size) for part in parts]
    found = claim_workdir(workdir, config, data, stages[-1].key)
    if found:
        print(segmentation.format_table(found))
        return found
    store = pathlib.Path(config.store) if config.store else workdir.parent / 'stages'
    network = segmenter.build_network(config.network)
    record = curriculum.origin(config, data, notes=[])
    outcomes, tested = [], []
    for number, stage in enumerate(stages):
        parent = segmenter.fresh(network, stage.task.image_size, config.seed)
        print(
            f'Training on {stage.facts.images} images with a lung mask'
            + (f', fold {number + 1} of {config.folds}' if config.folds else ''),
            flush=True,
        )
        outcome = run_stage(stage, network, parent, mesh, store, record)
        predict = segmenter.make_predict(
            network, outcome.backbone(), stage.task.image_size, config.eval.batch_size, mesh
        )
        tested += test_rows(predict, stage.data, config.eval.batch_size)
        outcomes.append(outcome)
    results = assemble(config, data, stages, outcomes, tested, workdir.name, command)
    if not config.folds:
        results['weights_sha256'] = segmenter.save(
            workdir, outcomes[0].backbone(), describe(config, stages[0], results)
        )
    segmentation.write_report(workdir, results, [outcome.metrics for outcome in outcomes], tested)
    print(segmentation.format_table(results))
    return results


def check_config(config: ConfigDict, devices: int) -> None:
    """UserError for a value outside its range, whatever the data."""
    batch = config.eval.batch_size
    if batch < 1 or batch % devices:
        raise UserError(f'--config.eval.batch_size={batch} is not a multiple of {devices} devices.')
    for field, least in (('network.width', 1), ('network.depth', 1), ('eval.resamples', 1)):
        section, name = field.split('.')
        if config[section][name] < least:
            raise UserError(f'--config.{field}={config[section][name]} must be {least} or more.')
    if config.folds < 0 or config.folds == 1:
        raise UserError(f'--config.folds={config.folds} must be 0 (none), or 2 or more.')
    if config.stage[segmenter.NAME].epochs < 1:
        raise UserError(f'--config.stage.{segmenter.NAME}.epochs must be 1 or more.')


def masked_parts(data: PreparedData, folds: int) -> list[PreparedData]:
    """The images with a lung mask as splits train and test, once per fold."""
    has_mask, patients, starts, first = [], [], {}, 0
    for split, n in data.counts.items():
        starts[split] = np.arange(first, first + n)
        first += n
        own, study, masked = (
            Records(data, split, (field,)).column(field)
            for field in ('patient', 'study', 'has_lung_mask')
        )
        has_mask += list(masked)
        patients += [patient or other for patient, other in zip(own, study, strict=True)]
    rows = np.flatnonzero(has_mask)
    if folds:
        fold = assign_folds([patients[row] for row in rows], folds)
        parts = [{'train': rows[fold != k], 'test': rows[fold == k]} for k in range(folds)]
    else:
        parts = [{split: np.intersect1d(rows, starts[split]) for split in ('train', 'test')}]
    for part in parts:
        for split, numbers in part.items():
            if not len(numbers):
                raise UserError(
                    f'No image of the {split} split of {data.directory} has a lung mask'
                    + (f' in one of {folds} folds' if folds else '')
                    + '; prepare the data with more masks (<source>/lung_masks/<image>.png, or a '
                    'lung_mask column in the csv).'
                )
    return [data.arranged(part) for part in parts]


def test_rows(predict, data: PreparedData, batch: int) -> list[dict]:
    """Per test image: Dice and IoU as predicted and as `apply` would write it, its reason."""
    rows = []
    for record, mask in segmenter.predicted_masks(predict, data, 'test', batch):
        true = record['lung_mask'][..., 0]
        cleaned, reason = lung_quality.checked(mask, lung_quality.Quality())
        raw, _ = dice_and_iou(mask, true)
        dice, iou = dice_and_iou(cleaned, true)
        rows.append({
            'patient': str(record['patient'] or record['study']),
            'raw_dice': raw, 'dice': dice, 'iou': iou, 'reason': reason,
            'image': record['image'][..., 0], 'mask': cleaned, 'true': true,
        })  # fmt: skip
    return rows


def assemble(
    config: ConfigDict, data: PreparedData, stages: list, outcomes: list, tested: list[dict],
    name: str, command: str,
) -> dict:  # fmt: skip
    """Everything that the report shows."""
    patients = [row['patient'] for row in tested]
    values = {k: np.array([row[k] for row in tested]) for k in ('dice', 'iou', 'raw_dice')}
    accepted = np.array([not row['reason'] for row in tested], float)
    keys = ('key', 'steps', 'wall_seconds', 'images_per_second', 'resumed', 'final_metrics')
    return {
        'name': name,
        'banner': embedded.BANNER if data.name == embedded.NAME else '',
        'command': command,
        'seed': config.seed,
        'folds': config.folds,
        'network': f'U-Net, width {config.network.width}, depth {config.network.depth}',
        'data': {
            'name': data.name,
            'fingerprint': data.fingerprint,
            'size': data.size,
            'has_patient_ids': data.has_patient_ids,
            'counts': [stage.data.counts for stage in stages],
        },
        'settings': stages[0].content['settings'],
        'stages': [
            {k: outcome.manifest[k] for k in keys} | {'reused': outcome.reused}
            for outcome in outcomes
        ],
        'test': mean_figures(
            values | {'accepted': accepted}, patients, config.seed, config.eval.resamples
        ),
        'versions': provenance.versions(),
        'device': provenance.devices(),
    }


def describe(config: ConfigDict, stage, results: dict) -> dict:
    """What `apply` needs, and what the masks' card says of their origin."""
    return {
        'network': config.network.to_dict(),
        'image_size': stage.task.image_size,
        'stage': stage.key,
        'data': {k: results['data'][k] for k in ('name', 'fingerprint', 'size')},
        'test': {k: results['test'][k] for k in ('images', 'patients', 'dice', 'iou')},
    }


def apply(
    config: ConfigDict, data: PreparedData, name: str, predict: segmenter.Predict, origin: dict
) -> dict:
    """Masks of every image of `data`, quality control, sidecar; returns its card."""
    ids, found = [], []
    for split in data.counts:
        for record, mask in segmenter.predicted_masks(predict, data, split, config.eval.batch_size):
            ids.append(str(record['image_id']))
            found.append(mask)
    card = masks.write_masks(data, name, ids, found, origin)
    print(segmentation.format_masks(card))
    return card


def chosen_model(config: ConfigDict, mesh) -> tuple[segmenter.Predict, dict]:
    """(prediction, where it comes from) of the flags."""
    if MODEL.value == 'lung_vae':
        if not WEIGHTS.value:
            raise UserError('Name the weights of lungVAE: --weights FILE.safetensors.')
        predict, origin = segmenter.load_lung_vae(pathlib.Path(WEIGHTS.value))
    else:
        if not SEGMENTER.value:
            raise UserError('Name the trained segmenter: --segmenter runs/segment-<data>.')
        folder = pathlib.Path(SEGMENTER.value)
        predict, origin = segmenter.load(folder, config.eval.batch_size, mesh)
    return predict, {'model': MODEL.value} | origin


if __name__ == '__main__':
    command_line.run(main, EXAMPLE, in_argument=('preset',), commands=('train', 'apply'))
