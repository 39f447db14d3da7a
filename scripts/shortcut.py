"""The shortcut experiment: a marker that gives the label away in training and not in the test.

    python -m scripts.shortcut FOLDER

Two phantom sets of the same patients differ in the marker burned into the images of the train and
validation splits: it is the hospital's (`off`) or follows the label (`on`); in the test split it is
the hospital's in both, so that both models of a region are tested on the same images. Six scratch
classifiers, three regions on either set; the table is printed and written to FOLDER/shortcut.md.
No choice looks at the validation split: it serves as unseen patients whose marker is that of
training. Started again, finished runs are found, not repeated.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs.curriculum import get_config
from cxr_jax import curriculum, embedded, parallel
from cxr_jax.comparison import paired_difference
from cxr_jax.compilation import use_cache
from cxr_jax.evaluate import predict
from cxr_jax.files import write_text
from cxr_jax.interrupt import EXIT_CODE, Interrupted
from cxr_jax.metrics import classification_figures
from cxr_jax.models.backbone import build_backbone
from cxr_jax.plan import make_plan
from cxr_jax.report.formats import NOT_AVAILABLE, interval, percent
from cxr_jax.report.page import table
from cxr_jax.stage import run_stage
from data_pipelines.errors import UserError
from data_pipelines.identity import SALT_FILE
from data_pipelines.prepare import prepare
from data_pipelines.synthetic import generate

REGIONS = ('full', 'lungs_black', 'background')
SHORTCUT = {'off': 0.0, 'on': 1.0}  # probability that a training marker follows the label
SIZE = 128  # pixels: the last feature map is 4x4, where the demo's is 2x2
SEED = 0
RECIPE = {
    'data.size': SIZE,
    # Told apart within minutes of training, where all four take an hour.
    'data.classes': ('negative', 'typical'),
    'stage.classify.batch_size': 16,
    'stage.classify.task.image_size': SIZE,
    # The demo's crops, down to 60 % of the area, cut the marker off in most views.
    'stage.classify.task.augment.crop_scale': (0.8, 1.0),
}


def prepare_sets(folder: Path, images: int) -> dict[str, Path]:
    """Prepares both phantom sets; {'off', 'on'} -> their data folders."""
    on, off = folders = [folder / f'data-{name}' for name in ('on', 'off')]
    prepare(embedded.NAME, None, on, SIZE, seed=SEED, images=images, shortcut=SHORTCUT['on'])
    # The marked set prescribes its splits, and one salt gives a patient the same id in both.
    raw = off / embedded.NAME / 'raw'
    generate(raw, images, SEED, SHORTCUT['off'])
    shutil.copy(on / embedded.NAME / 'raw' / 'splits.csv', raw)
    shutil.copy(on / SALT_FILE, off)
    prepare(embedded.NAME, None, off, SIZE, seed=SEED, images=images)
    return dict(zip(('on', 'off'), folders, strict=True))


def make_config(data_dir: Path, region: str, epochs: int) -> ConfigDict:
    """The demo's scratch classifier on one region of one set."""
    config = get_config('scratch,preset=demo')
    config.update_from_flattened_dict(RECIPE)
    config.data.dir, config.data.region, config.seed = str(data_dir), region, SEED
    config.stage.classify.epochs = epochs
    return config


def balanced_accuracy_unseen(config: ConfigDict, workdir: Path) -> dict:
    """Balanced accuracy (a figure) of a finished run on the validation split of its own set."""
    config = ConfigDict(config.to_dict())
    data, mesh = curriculum.open_data(config), parallel.data_mesh()
    plan = make_plan(config, data, mesh.size)
    stage = plan.stages[-1]
    contract = data.contract(stage.region)
    backbone = build_backbone(config.backbone, contract['mean'], contract['std'])
    parent = curriculum.initial_backbone(config, backbone, stage.task.image_size)
    record = curriculum.origin(config, data, plan.notes[stage.name])
    store = curriculum.store_of(config, workdir)
    trained = run_stage(stage, backbone, parent, mesh, store, record).variables
    found = predict(
        stage.task, backbone, trained, stage.data, mesh, stage.region, 'validation',
        config.eval.batch_size,
    )  # fmt: skip
    return classification_figures(
        found.probabilities, found.labels, found.patients, stage.data.classes, config.seed,
        config.eval.resamples,
    )['balanced_accuracy']  # fmt: skip


def run_one(data_dir: Path, region: str, marker: str, epochs: int, workdir: Path) -> dict:
    """Trains and evaluates one classifier, or finds it; its row of the table."""
    config = make_config(data_dir, region, epochs)
    results = curriculum.run(config, workdir, embedded.BANNER, 'python -m scripts.shortcut')
    with np.load(workdir / curriculum.PREDICTIONS_FILE) as predictions:
        tested = dict(predictions)
    return {
        'region': region,
        'marker': marker,
        'test': results['test']['balanced_accuracy'],
        'unseen': balanced_accuracy_unseen(config, workdir),
        **{key: results['attention'][key] for key in ('ail', 'lung_area', 'excess')},
        'predictions': tested,
        'chance': results['test']['chance']['balanced_accuracy'],
    }


def differences(rows: list[dict]) -> list[dict]:
    """Trained with the marker minus trained without, per region, on the same test images."""
    models = {(row['region'], row['marker']): [row['predictions']] for row in rows}
    return [
        {'region': region, **paired_difference(models[region, 'on'], models[region, 'off'])}
        for region in dict.fromkeys(row['region'] for row in rows)
    ]


def render(rows: list[dict], compared: list[dict]) -> str:
    """Both tables in Markdown."""
    header = [
        'region', 'marker follows the label in training', 'balanced accuracy, test',
        'balanced accuracy, unseen patients marked as in training', 'AIL', 'lung area',
        'AIL - lung area',
    ]  # fmt: skip
    keys = ('test', 'unseen', 'ail', 'lung_area', 'excess')
    body = [[row['region'], row['marker'], *(_shown(row[key]) for key in keys)] for row in rows]
    change = [
        [row['region'], _shown(row['difference']), f'{row["p"]:.2g}' if row['p'] else NOT_AVAILABLE]
        for row in compared
    ]
    return '\n\n'.join([
        f'*{embedded.BANNER}*',
        table(header, body),
        f'Chance: {percent(rows[0]["chance"])}. Brackets: 95 % intervals, bootstrap of patients.',
        table(['region', 'test accuracy: on - off', 'p (paired bootstrap)'], change),
    ]) + '\n'  # fmt: skip


def _shown(figure: dict) -> str:
    """'83.2 % [80.1 to 86.0 %]'."""
    return f'{percent(figure["value"])} [{interval(figure)}]'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path)
    parser.add_argument('--images', type=int, default=embedded.IMAGES, help='in each set')
    parser.add_argument('--epochs', type=int, default=15, help='of every classifier')
    arguments = parser.parse_args(argv)
    use_cache()
    try:
        sets = prepare_sets(arguments.folder, arguments.images)
        rows = [
            run_one(sets[marker], region, marker, arguments.epochs,
                    arguments.folder / f'{region}-{marker}')
            for region in REGIONS
            for marker in SHORTCUT
        ]  # fmt: skip
        text = render(rows, differences(rows))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(f'{stopped}; start the same command again to go on.', file=sys.stderr)
        return EXIT_CODE
    write_text(arguments.folder / 'shortcut.md', text)
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
