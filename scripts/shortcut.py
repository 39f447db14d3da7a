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
import shutil
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs.curriculum import get_config
from cxr_jax.evaluation import measures
from cxr_jax.evaluation.difference import paired_difference
from cxr_jax.report.blocks import Text, table
from cxr_jax.report.formats import interval, percent, plain
from cxr_jax.report.markdown import to_markdown
from cxr_jax.run import curriculum, embedded
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.plan import make_plan
from cxr_jax.run.results import PREDICTIONS_FILE
from cxr_jax.run.trained import load_readout
from cxr_jax.run.workdir import store_of
from cxr_jax.runtime import parallel
from cxr_jax.runtime.compilation import use_cache
from cxr_jax.runtime.interrupt import EXIT_CODE, Interrupted
from cxr_jax.store.files import write_text
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from data_pipelines.preparing.identity import SALT_FILE
from data_pipelines.synthetic import generate

REGIONS = ('full', 'lungs_black', 'background')
SHORTCUT = {'off': 0.0, 'on': 1.0}  # probability that a training marker follows the label
SIZE = 128  # pixels: the last feature map is 4x4, where the demo's is 2x2
SEED = 0
CLASSES = ('negative', 'typical')
RECIPE = {
    'data.size': SIZE,
    # All four are not learned within minutes at this size.
    'data.classes': CLASSES,
    'stage.classify.batch_size': 16,
    'stage.classify.task.image_size': SIZE,
    'stage.classify.optimizer.lr': 0.01,
    # The demo's crops cut the marker off in most views, and a mirrored R is not an R.
    'stage.classify.task.augment.crop_scale': (1.0, 1.0),
    'stage.classify.task.augment.flip': 0.0,
}
HEADLINE = measures.headline(exclusive=True)
HEADER = [
    'region', 'marker follows the label in training', f'{HEADLINE.title}, test',
    f'{HEADLINE.title}, unseen patients marked as in training', 'AIL, test', 'AIL, unseen',
]  # fmt: skip
CHANGE = [
    'region', f'{HEADLINE.title}, test, on - off', 'p (paired bootstrap)', 'AIL, test, on - off',
    'AIL, unseen, on - off',
]  # fmt: skip


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


def run_one(data_dir: Path, region: str, marker: str, epochs: int, workdir: Path) -> dict:
    """Trains and evaluates one classifier, or finds it; its tables of predictions."""
    config, mesh = make_config(data_dir, region, epochs), parallel.data_mesh()
    plan = make_plan(config, open_sets(config), mesh.size)
    command = f'python -m scripts.shortcut {workdir.parent}'
    results = curriculum.run(plan, workdir, embedded.BANNER, command)
    with np.load(workdir / PREDICTIONS_FILE) as predictions:
        tested = dict(predictions)
    # The validation split of its own set: unseen patients, whose marker is that of training.
    readout = load_readout(store_of(plan.settings.run.store, workdir) / results['bundles'][0])
    validation = plan.data.labelled(plan.data.splits[0].validation).corpus
    unseen = readout.predict(validation, mesh, config.eval.batch_size).table()
    return {'region': region, 'marker': marker, 'test': tested, 'unseen': unseen}


def figures(predictions: dict) -> dict:
    """The headline measure, AIL and lung area of one table of predictions."""
    of_table = predictions, CLASSES, True, SEED
    found = measures.evaluate(*of_table)['figures'][HEADLINE.name]['figure']
    attention = measures.attention_figures(*of_table)
    return {'headline': found, **{key: attention[key] for key in ('ail', 'lung_area')}}


def change(name: str, on: dict, off: dict) -> dict:
    """A measure of the table `on` minus that of `off`, of the same images."""
    return paired_difference(measures.named(name), [on], [off], CLASSES, exclusive=True)


def render(rows: list[dict]) -> str:
    """Both tables in Markdown: the classifiers, and what the marker changes in each region."""
    body, changes = [], []
    for row in rows:
        test, unseen = figures(row['test']), figures(row['unseen'])
        shown = [_shown(part[key]) for key in ('headline', 'ail') for part in (test, unseen)]
        body.append([row['region'], row['marker'], *shown])
    models = {(row['region'], row['marker']): row for row in rows}
    for region in dict.fromkeys(row['region'] for row in rows):
        on, off = models[region, 'on'], models[region, 'off']
        found = change(HEADLINE.name, on['test'], off['test'])
        inside = [
            _shown(change('ail', on[part], off[part])['difference']) for part in ('test', 'unseen')
        ]
        changes.append([region, _shown(found['difference']), plain(found['p'], 2), *inside])
    told = (
        f'Chance {percent(1 / len(CLASSES))}; lung area (the AIL of a uniform map) '
        f'{_shown(test["lung_area"])} in the test, {_shown(unseen["lung_area"])} in the unseen. '
        f'{len(row["test"]["labels"])} test and {len(row["unseen"]["labels"])} unseen images. '
        'In brackets: 95 % intervals, bootstrap of patients.'
    )
    return to_markdown('The shortcut experiment', [
        Text(f'*{embedded.BANNER}*'),
        table(HEADER, body),
        Text(told),
        table(CHANGE, changes),
    ])  # fmt: skip


def _shown(figure: dict) -> str:
    """'83.2 % (80.1 to 86.0 %)'."""
    return f'{percent(figure["value"])} ({interval(figure)})'


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
        text = render(rows)
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
