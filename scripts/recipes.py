"""Does a pretext task learn something useful? Its encoder before and after, read out by probes.

    python -m scripts.recipes moco --data synthetic_cxr --seeds 0 1 2 --out recipes.jsonl \
        stage.moco.epochs=40 stage.moco.optimizer.lr=0.1

Trains the pretext stages of a curriculum through the settings, plan and store of a run (stages that
are there are found, not repeated), on the training images of --data or, with data.pretext=, on
other sets without the patients that --data is tested on. Then frozen features of whole images are
read out by k nearest neighbours and by a ridge probe, which learn from the labels of its training
and validation images; tested are its test images, or all of the set --test. `before` is the
untrained encoder of the same seed, `_bn` the same weights with the batch statistics of whole
images. Of several seeds the mean is told, and the difference with an interval over patients and
seeds. One JSON line a call.
"""

import argparse
import ast
import json
import pathlib

import jax
import numpy as np

from configs.curriculum import get_config
from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import PATIENTS_AND_SEEDS, Draws
from cxr_jax.evaluation.cohort import aligned
from cxr_jax.evaluation.difference import difference
from cxr_jax.evaluation.measures.base import resample
from cxr_jax.evaluation.probes import knn_scores, ridge_probe, ridge_scores
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.initial import initial_parts
from cxr_jax.run.plan import make_plan
from cxr_jax.run.results import origin
from cxr_jax.run.stage import Outcome, Place, run_stage
from cxr_jax.runtime import allocator, parallel
from cxr_jax.runtime.compilation import use_cache
from cxr_jax.tasks import READOUTS
from cxr_jax.train.features import corpus_features
from cxr_jax.views.geometry import resize
from data_pipelines.prepared import loader
from data_pipelines.prepared.corpus import Corpus, union
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.target import target_of

EVAL_BATCH = 100
STATISTICS_BATCH, STATISTICS_IMAGES = 64, 1024


class Question:
    """What the probes are asked: the images they learn from, those they are tested on."""

    def __init__(self, config, test: str):
        own, self.size = config.data.name, config.data.size
        self._folder = config.data.dir or 'data'
        learnt = self._set(own)
        self.target = target_of(learnt, config.data.classes)
        self.learn = self._labelled(learnt, ('train', 'validation'))
        if test:
            self.test = self._labelled(self._set(test), ('train', 'validation', 'test'))
        else:
            self.test = self._labelled(learnt, ('test',))

    def _set(self, name: str):
        return open_prepared(self._folder, name, self.size, '')

    def _labelled(self, prepared, splits) -> Corpus:
        return self.target.labelled(union([prepared.corpus(split) for split in splits]))

    def tables(self, features: dict) -> dict:
        """{probe: table of predictions for the test images} from {'learn', 'test': [N, D]}."""
        learn, test = features['learn'], features['test']
        labels, names = self.target.values(self.learn), len(self.target.names)
        table = {
            'labels': self.target.values(self.test), 'patients': self.test.groups,
            'image_ids': self.test.column('image_id'),
        }  # fmt: skip
        # The features of all images point the same way: neighbours are told by what differs.
        mean, std = learn.mean(0), np.maximum(learn.std(0), 1e-6)
        near = knn_scores((learn - mean) / std, labels, (test - mean) / std, names)
        ridge = ridge_scores(ridge_probe(learn, labels, names), test)
        return {'knn': table | {'scores': near}, 'ridge': table | {'scores': ridge}}

    def measures(self) -> list:
        """The headline measure of the target, and the area under the curve."""
        names = (measures.headline(self.target.exclusive).name, 'macro_auc')
        return [measures.named(name) for name in dict.fromkeys(names)]


def factor_score(question: Question, features: dict, factor: str) -> float:
    """Balanced accuracy of the ridge probe for a column of the index, such as the source."""
    names, codes = np.unique(question.learn.column(factor), return_inverse=True)
    rows = np.isin(question.test.column(factor), names)
    labels = np.searchsorted(names, question.test.column(factor)[rows])
    scores = ridge_scores(ridge_probe(features['learn'], codes, len(names)), features['test'][rows])
    hits = scores.argmax(1) == labels
    return float(np.mean([hits[labels == k].mean() for k in np.unique(labels)]))


def rank(features: np.ndarray) -> float:
    """Exponential of the entropy of the singular values of centred features (RankMe)."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12) + 1e-12
    return float(np.exp(-(shares * np.log(shares)).sum()))


def look(encoder, mesh, part: dict, question: Question, size: int, factors) -> dict:
    """{'tables', 'rank', and each factor's score} of an encoder."""
    features = {
        name: corpus_features(encoder, mesh, part, corpus, size, EVAL_BATCH)
        for name, corpus in (('learn', question.learn), ('test', question.test))
    }
    found = {factor: factor_score(question, features, factor) for factor in factors}
    return found | {'tables': question.tables(features), 'rank': rank(features['test'])}


def with_statistics(encoder, mesh, part: dict, corpus: Corpus, size: int) -> dict:
    """The encoder with batch statistics of whole images of the corpus, as the probes see them."""

    def step(weights, batch):
        images = jax.vmap(lambda x: resize(x, size))(encoder.contract.images(batch))
        return encoder(*weights, images, train=True).batch_stats

    compiled, stats = parallel.sharded(step, mesh, (False, True), False), part['batch_stats']
    images = min(STATISTICS_IMAGES, len(corpus) // STATISTICS_BATCH * STATISTICS_BATCH)
    rows = np.sort(np.random.default_rng(0).permutation(len(corpus))[:images])
    # Running statistics forget a factor of 0.9 a batch: 32 batches leave 3 % of what was there.
    for _ in range(32 * STATISTICS_BATCH // images):
        for batch in loader.eval_batches(corpus.take(rows), STATISTICS_BATCH, (0, 1), False):
            inputs = parallel.put_rows(mesh, {'image': batch['image']})
            stats = compiled((part['params'], stats), inputs)
    return {'params': part['params'], 'batch_stats': jax.device_get(stats)}


def run_seed(arguments, seed: int) -> dict:
    """{'stages': what each stage tells, 'found': {before, before_bn, after, after_bn: look}}."""
    argument = f'{arguments.curriculum},preset={arguments.preset},readout={arguments.readout}'
    config = get_config(argument)
    given = {'seed': seed, 'data.name': arguments.data, 'data.dir': arguments.data_dir}
    config.update_from_flattened_dict(given)
    for override in arguments.fields:
        field, _, text = override.partition('=')
        config.update_from_flattened_dict({field: value_of(text, config, field)})
    mesh = parallel.data_mesh()
    plan = make_plan(config, open_sets(config), mesh.size)
    branch, place = plan.branches[0], Place(pathlib.Path(arguments.store), mesh)
    first = parts = initial_parts(plan, branch)
    told = []
    for stage in branch.stages:
        if stage.kind in READOUTS:
            continue
        outcome = run_stage(stage, parts, place, origin(plan, stage.name))
        parts = outcome.parts
        told.append(of_stage(outcome))
    question = Question(config, arguments.test)
    corpus, encoder, size = branch.stages[0].train.corpus, branch.encoder, arguments.size
    found, untrained = {}, (seed, arguments.test, size, str(config.data), str(config.encoder))
    for when, part in (('before', first['encoder']), ('after', parts['encoder'])):
        if when == 'before' and untrained in _UNTRAINED:
            found |= _UNTRAINED[untrained]
            continue
        whole = with_statistics(encoder, mesh, part, corpus, size)
        for name, own in ((when, part), (f'{when}_bn', whole)):
            found[name] = look(encoder, mesh, own, question, size, arguments.factors)
        if when == 'before':
            _UNTRAINED[untrained] = dict(found)
    return {'stages': told, 'found': found, 'question': question}


_UNTRAINED: dict[tuple, dict] = {}  # of the settings of one process


def of_stage(outcome: Outcome) -> dict:
    """Figures of a finished stage."""
    told = outcome.description
    shown = {
        'stage': told['stage'], 'steps': told['steps'], 'seconds': told['wall_seconds'],
        'images_per_second': told['images_per_second'], 'chance_loss': told['chance_loss'],
        'first_loss': outcome.metrics[0]['loss'] if outcome.metrics else None,
    }  # fmt: skip
    return shown | told['final_metrics'] | {'folder': outcome.folder.name}


def summary(runs: list[dict], factors, resamples: int) -> dict:
    """{'knn balanced_accuracy': {'before', ..., 'each', 'difference'}, ...} over the seeds."""
    question, whens, row = runs[0]['question'], list(runs[0]['found']), {}
    names, exclusive = question.target.names, question.target.exclusive
    seeds, draws = len(runs), Draws(resamples, over=PATIENTS_AND_SEEDS)
    for probe in ('knn', 'ridge'):
        tables = [run['found'][when]['tables'][probe] for when in whens for run in runs]
        rows, cohort = aligned(tables, names, exclusive)
        found = resample(question.measures(), rows, cohort, draws)
        for measure in question.measures():
            each = found.of(measure)[0].reshape(len(whens), seeds)
            places = {when: np.arange(seeds) + i * seeds for i, when in enumerate(whens)}
            gains = {
                name: difference(found, measure, places[f'after{name}'], places[f'before{name}'])
                for name in ('', '_bn')
            }
            row[f'{probe} {measure.name}'] = {
                **dict(zip(whens, each.mean(1).tolist(), strict=True)),
                'each': dict(zip(whens, each.tolist(), strict=True)),
                **{
                    f'difference{name}': [gain['difference'][x] for x in ('value', 'low', 'high')]
                    for name, gain in gains.items()
                },
            }
    for name in (*factors, 'rank'):
        row[name] = {w: float(np.mean([run['found'][w][name] for run in runs])) for w in whens}
    return row


def value_of(text: str, config, field: str):
    """A text as the type that the config's field has."""
    for name in field.split('.'):
        config = config[name]
    if isinstance(config, str):
        return text
    value = ast.literal_eval(text)
    return float(value) if isinstance(config, float) else value


def line_of(row: dict, runs: list[dict]) -> str:
    """One line for a reader: loss, and every figure before > before_bn > after > after_bn."""
    last = runs[0]['stages'][-1]
    texts = [f'{row["note"]} {row["curriculum"]} {" ".join(row["fields"])} seeds {row["seeds"]} |']
    texts.append(f'{last["steps"]} steps {last["seconds"]:.0f} s loss {last["loss"]:.3f}')
    texts.append(f'(chance {last["chance_loss"]})')
    for name, found in row.items():
        if isinstance(found, dict) and 'before' in found:
            steps = '>'.join(f'{found[when]:.3f}' for when in runs[0]['found'])
            gain = found.get('difference', []), found.get('difference_bn', [])
            told = ' '.join(f'[{" ".join(f"{x:+.3f}" for x in one)}]' for one in gain)
            texts.append(f'| {name} {steps} {told}')
    return 'RESULT ' + ' '.join(texts)


def main(argv=None) -> None:
    """Trains and reads out what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('curriculum', help='such as moco or moco_rot')
    parser.add_argument('fields', nargs='*', help='of the config, as stage.moco.epochs=40')
    parser.add_argument('--preset', default='small')
    parser.add_argument('--readout', default='classify', help='what the labels are: or findings')
    parser.add_argument('--data', required=True, help='prepared set whose labels are used')
    parser.add_argument('--data_dir', default='')
    parser.add_argument('--test', default='', help='another prepared set to be tested on')
    parser.add_argument('--factors', type=lambda text: text.split(','), default=())
    parser.add_argument('--size', type=int, default=64, help='pixels at which features are read')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--resamples', type=int, default=2000)
    parser.add_argument('--store', default='runs/stages')
    parser.add_argument('--out', default='runs/recipes.jsonl')
    parser.add_argument('--note', default='')
    arguments = parser.parse_intermixed_args(argv)
    allocator.keep_freed_memory()
    use_cache()
    runs = [run_seed(arguments, seed) for seed in arguments.seeds]
    kept = ('note', 'curriculum', 'preset', 'data', 'test', 'fields', 'seeds', 'size')
    row = {name: getattr(arguments, name) for name in kept}
    row |= {
        'stages': [run['stages'] for run in runs],
        **summary(runs, arguments.factors, arguments.resamples),
    }
    with open(arguments.out, 'a') as file:
        file.write(json.dumps(row) + '\n')
    print(line_of(row, runs), flush=True)


if __name__ == '__main__':
    main()
