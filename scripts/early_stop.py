"""How well each criterion of `early_stop` foretells what fine-tuning reaches.

    python -m scripts.early_stop FOLDER

Short runs on the phantoms, at the demo's scale: pretext tasks x rates x seeds, each then fine-tuned
on a part of the labels and tested. At the end of each pretext epoch every criterion is read; the
table has its rank correlation with the test result, over all runs and within the tasks, with 95 %
intervals (bootstrap of runs). Started again, what is finished is found, not repeated. Half an hour
on two CPU cores.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np

from configs.curriculum import get_config
from cxr_jax.evaluation import measures
from cxr_jax.evaluation.health import distance_from_normal, rankme
from cxr_jax.evaluation.predict import predict
from cxr_jax.report.blocks import Text, table
from cxr_jax.report.formats import decimal, percent
from cxr_jax.report.markdown import to_markdown
from cxr_jax.run import embedded
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.initial import initial_parts
from cxr_jax.run.plan import make_plan
from cxr_jax.run.results import origin
from cxr_jax.run.stage import Place, run_stage
from cxr_jax.runtime import parallel
from cxr_jax.runtime.compilation import use_cache
from cxr_jax.runtime.interrupt import EXIT_CODE, Interrupted
from cxr_jax.store.bundle import fit
from cxr_jax.store.files import write_json, write_text
from cxr_jax.train.early_stop import criterion
from cxr_jax.train.monitor import Health, Monitor, Record
from cxr_jax.train.probing import probe, training_features
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare

TASKS = ('moco', 'swav', 'barlow', 'rot')
RATES = (0.3, 3.0)  # times the rate of the task's settings for small data
SEEDS = (0, 1)
EPOCHS = 8
SMALLER = {
    'encoder.width': 8, 'data.label_fraction': 0.3, 'stage.classify.epochs': 40,
    'stage.classify.task.image_size': 48,
}  # fmt: skip
# Criterion -> (title, whether more of it is better).
CRITERIA = {
    'probe': ('ridge probe, validation', True),
    'knn': ('nearest neighbours, validation', True),
    'loss': ('loss, validation, as a share of chance', False),
    'rank': ('effective rank (RankMe)', True),
    'sigreg': ('distance from normal (SIGReg)', False),
}
RESAMPLES = 4000
FILE = 'criteria.jsonl'


class Criteria(Monitor):
    """Writes the value of every criterion before the first epoch and after each one."""

    def __init__(self, stage, directory: Path, mesh):
        self._stage, self._mesh, self._record = stage, mesh, Record(directory / FILE)
        self._loss = criterion('loss', stage, mesh)

    def begin(self, step, state):
        self._record.rewind(step)
        if step == 0:
            self.epoch_ended(0, state)

    def epoch_ended(self, epoch, state):
        probed, features = (
            read(self._stage, self._mesh, state) for read in (probe, training_features)
        )
        # Where there is no chance loss, values of different tasks have nothing in common.
        chance = self._stage.task.chance_loss() or 1.0
        self._record.add({
            'epoch': epoch,
            'step': int(state.step),
            'probe': probed['ridge'],
            'knn': probed['knn'],
            'loss': self._loss.value_of(state) / chance,
            'rank': rankme(features),
            'sigreg': distance_from_normal(features),
        })  # fmt: skip


def make_config(folder: Path, task: str, rate: float, seed: int):
    """Of one run: the demo's, smaller."""
    config = get_config(f'{task},preset=demo')
    config.update_from_flattened_dict(SMALLER)
    config.data.dir, config.seed = str(folder / 'data'), seed
    stage = config.stage[task]
    stage.epochs, stage.batch_size, stage.task.image_size = EPOCHS, 64, 48
    stage.optimizer.lr = rate * stage.optimizer.lr
    if 'small_size' in stage.task:
        stage.task.small_size = 32
    return config


def run_one(folder: Path, task: str, rate: float, seed: int) -> dict:
    """Trains, reads, fine-tunes and tests one run, or finds it: its row of the table."""
    path = folder / 'runs' / f'{task}-{rate:g}-{seed}.json'
    if path.is_file():
        return json.loads(path.read_text())
    config, mesh = make_config(folder, task, rate, seed), parallel.data_mesh()
    plan = make_plan(config, open_sets(config), mesh.size)
    (branch,) = plan.branches

    def watch(stage, directory):
        health = Health(stage, directory, looks=40, on_collapse='warn')
        return [health, Criteria(stage, directory, mesh)] if stage.name == task else [health]

    place = Place(folder / 'stages', mesh, watch=watch)
    parts, outcomes = initial_parts(plan, branch), []
    for stage in branch.stages:
        outcomes.append(run_stage(stage, parts, place, origin(plan, stage.name)))
        encoder = fit(outcomes[-1].parts['encoder'], parts['encoder'], stage.name)
        parts = outcomes[-1].parts | {'encoder': encoder}
    readout, tested = branch.stages[-1], branch.tested
    found = predict(
        readout.task, readout.encoder, parts, tested.corpus, tested.labels, mesh,
        config.eval.batch_size,
    )  # fmt: skip
    names, exclusive = plan.data.target.names, plan.data.target.exclusive
    headline = measures.value(measures.headline(exclusive), found.table(), names, exclusive)
    rows = Record(outcomes[0].folder / FILE).rows
    row = {'task': task, 'rate': rate, 'seed': seed, 'result': headline, 'epochs': rows}
    path.parent.mkdir(exist_ok=True)
    write_json(path, row)
    print(f'{task}, {rate:g} of its rate, seed {seed}: {percent(headline)}', flush=True)
    return row


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of theirs."""
    values = np.asarray(values, float)
    below, equal = values[:, None] > values, values[:, None] == values
    return below.sum(1) + (equal.sum(1) + 1) / 2


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the ranks; NaN where one of them does not vary."""
    x, y = ranks(x), ranks(y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float('nan')
    return float(np.corrcoef(x, y)[0, 1])


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Of runs of several tasks; `groups`: the task of each."""

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def figures(self, within: bool) -> tuple[float, float, float]:
        """(value, low, high): within, ranks are taken in each task and pooled."""
        rng, n = np.random.default_rng(0), len(self.x)
        drawn = (rng.integers(0, n, n) for _ in range(RESAMPLES))
        values = np.array([self._value(rows, within) for rows in drawn])
        bounds = np.nanpercentile(values, [2.5, 97.5])
        return self._value(np.arange(n), within), float(bounds[0]), float(bounds[1])

    def _value(self, rows: np.ndarray, within: bool) -> float:
        x, y, groups = self.x[rows], self.y[rows], self.groups[rows]
        if not within:
            return spearman(x, y)
        own = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        shares = [[ranks(v[part]) / (len(part) + 1) for part in own] for v in (x, y)]
        x, y = (np.concatenate(share) for share in shares)
        return spearman(x, y)


def value_of(row: dict, name: str, best: bool) -> float:
    """A criterion at the end of a run's pretext stage, or at the epoch that is best by it."""
    values = [epoch[name] for epoch in row['epochs'] if epoch['epoch'] > 0]
    if not best:
        return values[-1]
    return max(values) if CRITERIA[name][1] else min(values)


def render(rows: list[dict]) -> str:
    """The table of correlations and that of the runs, in Markdown."""
    groups, results = (np.array([row[key] for row in rows]) for key in ('task', 'result'))
    body = []
    for name, (title, higher) in CRITERIA.items():
        cells = []
        for best, within in itertools.product((False, True), (False, True)):
            values = np.array([value_of(row, name, best) for row in rows])
            found = Correlation(values if higher else -values, results, groups).figures(within)
            cells.append('{:+.2f} ({:+.2f} to {:+.2f})'.format(*found))
        body.append([title, *cells])
    header = ['criterion', 'at the end', 'at the end, within tasks', 'at its best epoch',
              'at its best epoch, within tasks']  # fmt: skip
    runs = [
        [
            f'{row["task"]}, {row["rate"]:g} of its rate, seed {row["seed"]}',
            percent(row['result']),
            *(decimal(value_of(row, name, False)) for name in CRITERIA),
        ]
        for row in rows
    ]
    told = (
        f'{len(rows)} runs; positive: what the criterion prefers is better after fine-tuning. Test '
        f'result: {measures.headline(True).title}, from {percent(results.min())} to '
        f'{percent(results.max())}; guessing {percent(0.25)}.'
    )
    names = ['run', 'fine-tuned, test', *(plain_title for plain_title, _ in CRITERIA.values())]
    return to_markdown('What foretells the fine-tuned result', [
        Text(f'*{embedded.BANNER}*'), Text(told), table(header, body), table(names, runs),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path)
    folder = parser.parse_args().folder
    use_cache()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(embedded.NAME, None, folder / 'data', 80, images=embedded.IMAGES)
    # Seeds and rates innermost: what a task compiles is used while it is at hand.
    rows = [run_one(folder, *each) for each in itertools.product(TASKS, RATES, SEEDS)]
    page = render(rows)
    write_text(folder / 'early_stop.md', page)
    print(page)


if __name__ == '__main__':
    try:
        main()
    except Interrupted as told:
        print(told, file=sys.stderr)
        sys.exit(EXIT_CODE)
    except UserError as told:
        print(told, file=sys.stderr)
        sys.exit(2)
