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

import numpy as np

from configs.curriculum import get_config
from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import PATIENTS_AND_SEEDS, Draws
from cxr_jax.evaluation.cohort import aligned
from cxr_jax.evaluation.difference import difference
from cxr_jax.evaluation.health import rankme
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
from cxr_jax.train.features import corpus_features, whole_image_statistics
from data_pipelines.prepared.corpus import Corpus, union
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.target import target_of

EVAL_BATCH = 100
STATISTICS_BATCH = 64
WHENS = ('before', 'before_bn', 'after', 'after_bn')


class Question:
    """What the probes are asked: the images they learn from, those they are tested on."""

    def __init__(self, config, name: str, test: str = ''):
        self.name, self.size, self._folder = name, config.data.size, config.data.dir or 'data'
        learnt = self._set(name)
        self.target = target_of(learnt, config.data.classes if name == config.data.name else ())
        self.learn = self._labelled(learnt, ('train', 'validation'))
        if test:
            self.test = self._labelled(self._set(test), ('train', 'validation', 'test'))
        else:
            self.test = self._labelled(learnt, ('test',))

    def _set(self, name: str):
        return open_prepared(self._folder, name, self.size, '')

    def _labelled(self, prepared, splits) -> Corpus:
        return self.target.labelled(union([prepared.corpus(split) for split in splits]))

    def tables(self, learn: np.ndarray, test: np.ndarray) -> dict:
        """{probe: table of predictions for the test images} from features [N, D]."""
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


def look(encoder, mesh, part: dict, question: Question, size: int) -> dict:
    """{'tables', 'rank'} of an encoder for a question, by frozen features of whole images."""
    learn, test = (
        corpus_features(encoder, mesh, part, corpus, size, EVAL_BATCH)
        for corpus in (question.learn, question.test)
    )
    return {'tables': question.tables(learn, test), 'rank': rankme(test - test.mean(0))}


def run_seed(arguments, seed: int) -> dict:
    """{'stages': what each stage tells, 'found': {question: {when: look}}, 'questions'}."""
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
    questions = [Question(config, arguments.data, arguments.test)]
    questions += [Question(config, name) for name in arguments.also]
    encoder, size, found = branch.encoder, arguments.size, {}
    for question in questions:
        own = found.setdefault(question.name, {})
        for when, part in (('before', first['encoder']), ('after', parts['encoder'])):
            key = (seed, question.name, arguments.test, size, str(config.data), str(config.encoder))
            if when == 'before' and key in _UNTRAINED:
                own |= _UNTRAINED[key]
                continue
            whole = whole_image_statistics(
                encoder, mesh, part, question.learn, size, STATISTICS_BATCH
            )
            whole = {'params': part['params'], 'batch_stats': whole}
            for name, weights in ((when, part), (f'{when}_bn', whole)):
                own[name] = look(encoder, mesh, weights, question, size)
            if when == 'before':
                _UNTRAINED[key] = dict(own)
    return {'stages': told, 'found': found, 'questions': questions}


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


def summary(runs: list[dict], question: Question, resamples: int) -> dict:
    """{'knn balanced_accuracy': {'before', ..., 'each', 'difference'}, ...} over the seeds."""
    found = [run['found'][question.name] for run in runs]
    whens, seeds, row = list(found[0]), len(runs), {}
    names, exclusive = question.target.names, question.target.exclusive
    draws = Draws(resamples, over=PATIENTS_AND_SEEDS)
    for probe in ('knn', 'ridge'):
        tables = [one[when]['tables'][probe] for when in whens for one in found]
        rows, cohort = aligned(tables, names, exclusive)
        drawn = resample(question.measures(), rows, cohort, draws)
        for measure in question.measures():
            each = drawn.of(measure)[0].reshape(len(whens), seeds)
            places = {when: np.arange(seeds) + i * seeds for i, when in enumerate(whens)}
            gains = {
                name: difference(drawn, measure, places[f'after{name}'], places[f'before{name}'])
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
    row['rank'] = {when: float(np.mean([one[when]['rank'] for one in found])) for when in whens}
    return row


def value_of(text: str, config, field: str):
    """A text as the type that the config's field has."""
    for name in field.split('.'):
        config = config[name]
    if isinstance(config, str):
        return text
    value = ast.literal_eval(text)
    return float(value) if isinstance(config, float) else value


def lines_of(row: dict) -> list[str]:
    """For a reader: the stage, and every figure before > before_bn > after > after_bn."""
    last = row['stages'][0][-1]
    lines = [
        f'RESULT {row["note"]} {row["curriculum"]} {" ".join(row["fields"])} seeds {row["seeds"]} '
        f'| {last["steps"]} steps {last["seconds"]:.0f} s loss {last["loss"]:.3f} '
        f'(chance {last["chance_loss"]})'
    ]
    for question, figures in row['questions'].items():
        for name, found in figures.items():
            steps = ' > '.join(f'{found[when]:.3f}' for when in WHENS)
            gains = [found[gain] for gain in ('difference', 'difference_bn') if gain in found]
            told = ' '.join(f'[{" ".join(f"{x:+.3f}" for x in gain)}]' for gain in gains)
            lines.append(f'    {question:12} {name:24} {steps} {told}')
    return lines


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
    parser.add_argument('--also', nargs='*', default=[], help='more sets with labels')
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
    row['stages'] = [run['stages'] for run in runs]
    row['questions'] = {
        question.name: summary(runs, question, arguments.resamples)
        for question in runs[0]['questions']
    }
    with open(arguments.out, 'a') as file:
        file.write(json.dumps(row) + '\n')
    print('\n'.join(lines_of(row)), flush=True)


if __name__ == '__main__':
    main()
