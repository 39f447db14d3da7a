"""Does a pretext task learn something useful? Its encoder before and after, read out by two probes.

    python -m scripts.recipes moco --data synthetic_cxr --seeds 0 1 2 --out recipes.jsonl \
        stage.moco.epochs=40 stage.moco.optimizer.lr=0.1

Trains the stages of a curriculum through the product's own settings, plan and store (what is there
is found, not repeated), then reads frozen features of labelled images, before (the same seed's
encoder, untrained) and after, by k nearest neighbours and by a ridge probe. Of several seeds the
mean is told, and its difference with an interval over patients and seeds. One JSON line a call.
"""

import argparse
import ast
import json
import pathlib
import time

import jax
import numpy as np

from configs.curriculum import get_config
from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import PATIENTS_AND_SEEDS, Draws
from cxr_jax.evaluation.difference import paired_difference
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.initial import initial_parts
from cxr_jax.run.plan import make_plan
from cxr_jax.run.results import origin
from cxr_jax.run.stage import Place, run_stage
from cxr_jax.runtime import parallel
from cxr_jax.runtime.compilation import use_cache
from cxr_jax.train.features import corpus_features
from cxr_jax.views.geometry import resize
from data_pipelines.prepared import loader
from data_pipelines.prepared.corpus import union
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.target import target_of

NEIGHBOURS = 20
PENALTIES = 10.0 ** np.arange(-1, 5)
BALANCED, AUC = 'balanced_accuracy', 'macro_auc'


def knn_scores(train, labels, test, classes: int) -> np.ndarray:
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test)]
    similar = unit[1] @ unit[0].T
    near = np.argpartition(-similar, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    weight = np.exp(np.take_along_axis(similar, near, 1) / 0.1)
    # Of balanced classes: a vote counts by the rarity of its class.
    weight = weight / np.bincount(labels, minlength=classes)[labels[near]]
    votes = np.zeros((len(test), classes))
    for k in range(classes):
        votes[:, k] = (weight * (labels[near] == k)).sum(1)
    return votes / votes.sum(1, keepdims=True)


def ridge_scores(train, labels, test, classes: int) -> np.ndarray:
    """Penalty by leave-one-out error; every class weighs the same."""
    weight = 1.0 / (classes * np.bincount(labels, minlength=classes)[labels])
    target = (labels[:, None] == np.arange(classes)) - 1.0 / classes
    root = np.sqrt(weight)[:, None]
    mean = (weight[:, None] * train).sum(0)
    x, y = root * (train - mean), root * target
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    best = (np.inf, None)
    for penalty in PENALTIES / len(train):
        shrink = s**2 / (s**2 + penalty)
        fitted = u @ (shrink[:, None] * (u.T @ y))
        left = 1 - (u**2 * shrink).sum(1, keepdims=True)
        error = np.square((y - fitted) / left).sum()
        if error < best[0]:
            best = (error, vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ y)))
    return (test - mean) @ best[1]


PROBES = {'knn': knn_scores, 'ridge': ridge_scores}


def read_out(features, table, target, where) -> dict:
    """{probe: table of predictions} of the test images."""
    train, test = features[where == 'train'], features[where == 'test']
    mean, std = train.mean(0), train.std(0)
    train, test = ((x - mean) / np.maximum(std, 1e-6 * max(std.max(), 1e-12)) for x in (train, test))
    labels = table['labels'][where == 'train']
    rows = {name: x[where == 'test'] for name, x in table.items()}
    k = len(target.names)
    return {p: rows | {'scores': f(train, labels, test, k)} for p, f in PROBES.items()}


def labelled_images(config, name: str, classes):
    """(corpus, table, target, split) of the labelled images that the probes learn and test on."""
    prepared = open_prepared(config.data.dir, name, config.data.size, '')
    target = target_of(prepared, classes)
    train = union([prepared.corpus('train'), prepared.corpus('validation')])
    parts = [target.labelled(train), target.labelled(prepared.corpus('test'))]
    corpus = union(parts)
    table = {
        'labels': target.values(corpus), 'patients': corpus.groups,
        'image_ids': corpus.column('image_id'),
    }
    where = np.repeat(['train', 'test'], [len(part) for part in parts])
    return corpus, table, target, where


def run_seed(arguments, seed: int) -> dict:
    config = get_config(f'{arguments.curriculum},preset={arguments.preset},readout=none')
    for override in arguments.fields:
        field, _, text = override.partition('=')
        config.update_from_flattened_dict({field: value_of(text, config, field)})
    config.seed = seed
    if arguments.data:
        config.data.name = arguments.data
    if arguments.data_dir:
        config.data.dir = arguments.data_dir
    mesh = parallel.data_mesh()
    plan = make_plan(config, open_sets(config), mesh.size)
    branch = plan.branches[0]
    begun = time.time()
    parts = first = initial_parts(plan, branch)
    stages = []
    place = Place(pathlib.Path(arguments.store), mesh)
    for stage in branch.stages:
        outcome = run_stage(stage, parts, place, origin(plan, stage.name))
        parts = outcome.parts
        told = outcome.description
        stages.append({
            'stage': stage.name, 'steps': told['steps'], 'seconds': told['wall_seconds'],
            'images_per_second': told['images_per_second'], 'images': len(stage.train.corpus),
            'chance': told['chance_loss'], **told['final_metrics'], 'folder': outcome.folder.name,
        })
    trained = time.time() - begun
    labelled = labelled_images(config, arguments.labelled or config.data.name, arguments.classes)
    train = branch.stages[0].train.corpus
    found = {}
    for when, weights in (('before', first['encoder']), ('after', parts['encoder'])):
        whole = calibrated(branch.encoder, mesh, weights, train, arguments.size)
        for name, part in ((when, weights), (f'{when}_bn', whole)):
            cached = (seed, arguments.labelled, str(config.data), str(config.encoder), arguments.size)
            if when == 'before' and (cached, name) in _cache:
                found[name] = _cache[cached, name]
                continue
            found[name] = look(branch.encoder, mesh, part, labelled, arguments)
            if when == 'before':
                _cache[cached, name] = found[name]
    return {'stages': stages, 'trained': trained, 'found': found, 'target': labelled[2]}


_cache = {}


def look(encoder, mesh, part, labelled, arguments) -> dict:
    corpus, table, target, where = labelled
    features = corpus_features(encoder, mesh, part, corpus, arguments.size, 100)
    found = read_out(features, table, target, where)
    for factor in arguments.factors:
        values, codes = np.unique(corpus.column(factor), return_inverse=True)
        own = table | {'labels': codes}
        other = type(target)(tuple(map(str, values)), True)
        score = read_out(features, own, other, where)['ridge']
        found[factor] = measures.value(measures.named(BALANCED), score, other.names, True)
    unit = features - features.mean(0)
    values = np.linalg.svd(unit, compute_uv=False)
    shares = values / values.sum() + 1e-12
    found['rank'] = float(np.exp(-(shares * np.log(shares)).sum()))
    return found


def calibrated(encoder, mesh, part, corpus, size: int) -> dict:
    """The encoder with batch statistics of whole images of the corpus, as it is given them here."""

    def step(weights, batch):
        images = jax.vmap(lambda x: resize(x, size))(encoder.contract.images(batch))
        return encoder(*weights, images, train=True).batch_stats

    compiled, stats = parallel.sharded(step, mesh, (False, True), False), part['batch_stats']
    rows = np.random.default_rng(0).permutation(len(corpus))[: 64 * min(len(corpus) // 64, 16)]
    for _ in range(3 if len(rows) < 1024 else 2):
        for batch in loader.eval_batches(corpus.take(np.sort(rows)), 64, (0, 1), False):
            inputs = parallel.put_rows(mesh, {'image': batch['image']})
            stats = compiled((part['params'], stats), inputs)
    return {'params': part['params'], 'batch_stats': jax.device_get(stats)}


def summary(runs: list[dict], arguments) -> dict:
    names, draws = runs[0]['target'].names, Draws(2000, over=PATIENTS_AND_SEEDS)
    row = {}
    for probe in PROBES:
        for measure in (BALANCED, AUC):
            one = measures.named(measure)
            tables = {w: [run['found'][w][probe] for run in runs] for w in runs[0]['found']}
            value = {
                w: [measures.value(one, table, names, True) for table in found]
                for w, found in tables.items()
            }
            difference = paired_difference(
                one, tables['after'], tables['before'], names, True, draws
            )['difference']
            row[f'{probe}_{measure}'] = {
                **{w: float(np.mean(x)) for w, x in value.items()},
                'each': value, 'difference': [difference[k] for k in ('value', 'low', 'high')],
            }
    for factor in (*arguments.factors, 'rank'):
        row[factor] = {
            w: float(np.mean([r['found'][w][factor] for r in runs])) for w in runs[0]['found']
        }
    return row


def value_of(text: str, config, field: str):
    """A text as the type that the config's field has."""
    for name in field.split('.'):
        config = config[name]
    if isinstance(config, str):
        return text
    value = ast.literal_eval(text)
    return float(value) if isinstance(config, float) else value


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('curriculum')
    parser.add_argument('fields', nargs='*')
    parser.add_argument('--preset', default='demo')
    parser.add_argument('--data', default='')
    parser.add_argument('--data_dir', default='')
    parser.add_argument('--labelled', default='')
    parser.add_argument('--classes', type=lambda x: tuple(filter(None, x.split(','))), default=())
    parser.add_argument('--factors', type=lambda x: tuple(filter(None, x.split(','))), default=())
    parser.add_argument('--size', type=int, default=64)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--store', required=True)
    parser.add_argument('--out', required=True)
    parser.add_argument('--note', default='')
    arguments = parser.parse_intermixed_args(argv)
    use_cache()
    runs = [run_seed(arguments, seed) for seed in arguments.seeds]
    row = {
        'time': time.strftime('%H:%M:%S'), 'note': arguments.note, 'curriculum': arguments.curriculum,
        'data': arguments.data, 'labelled': arguments.labelled, 'classes': list(arguments.classes),
        'fields': arguments.fields, 'seeds': arguments.seeds, 'size': arguments.size,
        'stages': [run['stages'] for run in runs], **summary(runs, arguments),
    }
    with open(arguments.out, 'a') as file:
        file.write(json.dumps(row) + '\n')
    last, whens = runs[0]['stages'][-1], list(runs[0]['found'])
    told = {
        f'{p}': row[f'{p}_{BALANCED}'] for p in PROBES
    } | {f'{p}auc': row[f'{p}_{AUC}'] for p in PROBES} | {f: row[f] for f in (*arguments.factors, 'rank')}
    print(
        f"RESULT {row['time']} {arguments.note} {arguments.curriculum} {' '.join(arguments.fields)} | "
        f"{last['steps']} st {last['seconds']:.0f} s, loss {last['loss']:.3f} "
        f"({last['chance'] and round(last['chance'], 3)}) "
        + ' '.join(f'{name} ' + '>'.join(f'{x[w]:.3f}'.lstrip('0') for w in whens) for name, x in told.items()),
        flush=True,
    )
    jax.clear_caches()


if __name__ == '__main__':
    main()
