"""Train a lung segmenter, and write its masks beside a prepared data set.

    python -m cxr_jax.segment train --config configs/segment.py [--workdir DIR]
    python -m cxr_jax.segment apply --config configs/segment.py --segmenter DIR --name NAME

`train` uses the images that have a lung mask. `apply` writes <prepared dir>/masks/NAME/ for every
image of the config's data; --config.data.masks=NAME then trains a curriculum with these masks.
--segmenter is the workdir of `train`, or a bundle. With --model lung_vae --weights FILE the masks
come from the published lungVAE instead. Exit codes as in cxr_jax.runtime.command_line.
"""

import pathlib
import shlex
import sys

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cxr_jax.evaluation.measures.segmentation import dice_and_iou, mean_figures
from cxr_jax.report import segmentation
from cxr_jax.run import embedded, segmenter
from cxr_jax.run.embedded import DATA_DIR
from cxr_jax.run.segmenter import SegmentSettings
from cxr_jax.run.stage import Place, run_stage
from cxr_jax.run.workdir import claim_workdir, copied_up, store_of
from cxr_jax.runtime import command_line, parallel
from cxr_jax.store import provenance
from cxr_jax.store.identity import active
from cxr_jax.store.inspection import find_stage
from data_pipelines.errors import UserError
from data_pipelines.prepared import lung_quality, masks
from data_pipelines.prepared.corpus import Corpus
from data_pipelines.prepared.data import PreparedSet, open_prepared
from data_pipelines.storage import places
from data_pipelines.storage.raw import pull_files

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
    settings, _ = segmenter.read_config(config)
    if settings.data.name == embedded.NAME:
        print(f'*** {embedded.BANNER} ***', flush=True)
    embedded.prepare_if_missing(config)
    data = open_prepared(settings.data.dir or DATA_DIR, settings.data.name, settings.data.size)
    if data.channels > 1:
        raise UserError(
            f'{data.directory} is in colour; lungs are segmented in radiographs, which are grey. '
            'Prepare the images with --dataset image_folder, which makes them grey.'
        )
    words = shlex.join(['python', '-m', 'cxr_jax.segment', *sys.argv[1:]])
    if command == 'train':
        workdir = command_line.workdir(f'runs/segment-{data.name}')
        with copied_up(workdir, store_of(settings.store, workdir)):
            train(config, data, workdir, words)
        print(f'\nReport: {places.name_of(workdir / "results.md")}')
    else:
        if not NAME.value:
            raise UserError('Name the masks that are written: --name NAME.')
        mesh = parallel.data_mesh()
        check_batch(settings, mesh.size)
        predict, origin = chosen_model(settings, mesh)
        origin |= {'command': words, 'versions': provenance.versions(),
                   'git': provenance.git_state()}  # fmt: skip
        apply(settings, data, NAME.value, predict, origin)


def train(config: ConfigDict, data: PreparedSet, workdir: pathlib.Path, command: str) -> dict:
    """Trains on the images of `data` with a lung mask, tests, reports; returns results.json.

    Without folds on the data's own splits; with folds every image is tested by the network that
    has not seen its patient.
    """
    mesh = parallel.data_mesh()
    settings, stage = segmenter.read_config(config)
    check_batch(settings, mesh.size)
    parts = masked_parts(data, settings.folds)
    stages = [segmenter.make_stage(settings, stage, part, mesh.size) for part, _ in parts]
    identity = {
        'stages': [each.key for each in stages],
        'evaluation': active(settings.eval),
        'tested': [tested.fingerprint for _, tested in parts],
    }
    told = active(settings) | {'stage': active(stage)}
    found = claim_workdir(workdir, identity, told)
    if found:
        print(segmentation.format_table(found))
        return found
    store = store_of(settings.store, workdir)
    origin = {'run': told, 'notes': [], 'versions': provenance.versions(),
              'git': provenance.git_state(), 'device': provenance.devices()}  # fmt: skip
    outcomes, rows = [], []
    for number, (each, (_, tested)) in enumerate(zip(stages, parts, strict=True)):
        parent = segmenter.fresh(each.encoder, each.task.image_size, settings.seed)
        print(
            f'Training on {each.facts.images} images with a lung mask'
            + (f', fold {number + 1} of {settings.folds}' if settings.folds else ''),
            flush=True,
        )
        outcome = run_stage(each, parent, Place(store, mesh, settings.keep), origin)
        predict = segmenter.make_predict(
            each.encoder, outcome.parts['encoder'], each.task.image_size,
            settings.eval.batch_size, mesh,
        )  # fmt: skip
        rows += test_rows(predict, tested, settings.eval.batch_size)
        outcomes.append(outcome)
    results = assemble(settings, parts, outcomes, rows, workdir.name, command)
    segmentation.write_report(workdir, results, [outcome.metrics for outcome in outcomes], rows)
    print(segmentation.format_table(results))
    return results


def check_batch(settings: SegmentSettings, devices: int) -> None:
    """UserError for a batch that the devices cannot share."""
    batch = settings.eval.batch_size
    if batch % devices:
        raise UserError(f'--config.eval.batch_size={batch} is not a multiple of {devices} devices.')


def masked_parts(data: PreparedSet, folds: int) -> list[tuple[Corpus, Corpus]]:
    """(training, test) images with a lung mask: of the splits, or once per fold."""
    whole = data.corpus()
    masked = whole.take(whole.column('has_mask'))
    if folds:
        fold = masked.folds(folds, segmenter.FOLD_SEED)
        parts = [(masked.take(fold != k), masked.take(fold == k)) for k in range(folds)]
    else:
        split = masked.column('split')
        parts = [(masked.take(split == 'train'), masked.take(split == 'test'))]
    for part in parts:
        for split, corpus in zip(('train', 'test'), part, strict=True):
            if not len(corpus):
                raise UserError(
                    f'No image of the {split} split of {data.directory} has a lung mask'
                    + (f' in one of {folds} folds' if folds else '')
                    + '; prepare the data with more masks (<source>/lung_masks/<image>.png, or a '
                    'lung_mask column in the csv).'
                )
    return parts


def test_rows(predict: segmenter.Predict, corpus: Corpus, batch: int) -> list[dict]:
    """Per test image: Dice and IoU as predicted and as `apply` would write it, its reason."""
    rows, patients = [], corpus.groups
    for record, mask in segmenter.predicted_masks(predict, corpus, batch):
        true = record['lung_mask'][..., 0]
        cleaned, reason = lung_quality.checked(mask, lung_quality.Quality())
        raw, _ = dice_and_iou(mask, true)
        dice, iou = dice_and_iou(cleaned, true)
        rows.append({
            'patient': str(patients[record['row']]),
            'raw_dice': raw, 'dice': dice, 'iou': iou, 'reason': reason,
            'image': record['image'][..., 0], 'mask': cleaned, 'true': true,
        })  # fmt: skip
    return rows


def assemble(
    settings: SegmentSettings, parts: list, outcomes: list, rows: list[dict], name: str,
    command: str,
) -> dict:  # fmt: skip
    """Everything that the report shows."""
    values = {k: np.array([row[k] for row in rows]) for k in ('dice', 'iou', 'raw_dice')}
    accepted = np.array([not row['reason'] for row in rows], float)
    keys = ('key', 'steps', 'wall_seconds', 'images_per_second', 'resumed', 'final_metrics')
    first, tested = parts[0]
    return {
        'name': name,
        'banner': embedded.BANNER if settings.data.name == embedded.NAME else '',
        'command': command,
        'seed': settings.seed,
        'folds': settings.folds,
        'network': f'U-Net, width {settings.network.width}, depth {settings.network.depth}',
        'data': {
            'name': settings.data.name,
            'fingerprint': first.parts[0][0].fingerprint,
            'size': settings.data.size,
            'has_patient_ids': first.describe()['has_patient_ids'],
            'counts': [{'train': len(train), 'test': len(test)} for train, test in parts],
        },
        'settings': outcomes[0].description['content']['settings'],
        'stages': [
            {k: outcome.description[k] for k in keys} | {'reused': outcome.reused}
            for outcome in outcomes
        ],
        'bundles': [outcome.folder.name for outcome in outcomes],
        'test': mean_figures(
            values | {'accepted': accepted},
            [row['patient'] for row in rows],
            settings.seed,
            settings.eval.resamples,
        ),
        'versions': provenance.versions(),
        'device': provenance.devices(),
    }


def apply(
    settings: SegmentSettings,
    data: PreparedSet,
    name: str,
    predict: segmenter.Predict,
    origin: dict,
) -> dict:
    """Masks of every image of `data`, quality control, sidecar; returns its card."""
    predicted = segmenter.predicted_masks(predict, data.corpus(), settings.eval.batch_size)
    card = masks.write_masks(data, name, (mask for _, mask in predicted), origin)
    print(segmentation.format_masks(card))
    return card


def chosen_model(settings: SegmentSettings, mesh) -> tuple[segmenter.Predict, dict]:
    """(prediction, where it comes from) of the flags."""
    if MODEL.value == 'lung_vae':
        if not WEIGHTS.value:
            raise UserError('Name the weights of lungVAE: --weights FILE.safetensors.')
        weights = places.local(WEIGHTS.value)
        pull_files(weights)
        predict, origin = segmenter.load_lung_vae(weights)
    else:
        if not SEGMENTER.value:
            raise UserError('Name the trained segmenter: --segmenter runs/segment-<data>.')
        folder = find_stage(places.local(SEGMENTER.value))
        predict, origin = segmenter.load(folder, settings.eval.batch_size, mesh)
    return predict, {'model': MODEL.value} | origin


if __name__ == '__main__':
    command_line.run(main, EXAMPLE, in_argument=('preset',), commands=('train', 'apply'))
