"""Monitors look at a training at the borders of epochs and never touch it; no key knows of them."""

import json
import pathlib

import jax
import numpy as np

from cxr_jax.runtime import hosts, parallel
from cxr_jax.store.files import write_text
from cxr_jax.train.feed import fields_of
from cxr_jax.train.stage import Stage
from cxr_jax.train.step import make_observation
from data_pipelines.prepared import loader

HEALTH_FILE = 'health.jsonl'


def spread(embeddings: np.ndarray) -> dict[str, float]:
    """How an encoder's embeddings [N, D] fill their space: both are near 0 after a collapse.

    `std`: mean over the dimensions of the standard deviation of unit rows, times sqrt(D): 1 for
    rows that point anywhere (Chen and He 2021, section 4.1). `rank`: the exponential of the
    entropy of the singular values (RankMe, Garrido et al. 2023, equation 1), 1 to min(N, D).
    """
    rows = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.maximum(lengths, 1e-12)
    values = np.linalg.svd(rows, compute_uv=False)
    shares = values / max(values.sum(), 1e-12) + 1e-7
    return {
        'std': float(unit.std(0).mean() * np.sqrt(rows.shape[1])),
        'rank': float(np.exp(-(shares * np.log(shares)).sum())),
    }


class Health:
    """Writes, every `epochs`, the spread of each view's embeddings of one batch of images.

    One row in health.jsonl of the stage's folder: epoch, step, and {'<view>_std', '<view>_rank'}.
    """

    def __init__(self, stage: Stage, mesh, directory: pathlib.Path, epochs: float):
        self._every, self._mesh, self._path = max(round(epochs), 1), mesh, directory / HEALTH_FILE
        self._observe = make_observation(stage.task, stage.encoder, mesh, stage.seed)
        self._fields = fields_of(stage.encoder, stage.task)
        self._data, self._batch_size = stage.train, stage.facts.batch_size
        self._batch = None

    def __call__(self, epoch: int, state) -> None:
        if epoch % self._every:
            return
        if self._batch is None:
            shard = (jax.process_index(), jax.process_count())
            found = next(loader.eval_batches(
                self._data.corpus, self._batch_size, shard, 'lung_mask' in self._fields,
                self._data.labels,
            ))  # fmt: skip
            self._batch = {name: found[name] for name in self._fields}
        inputs = parallel.put_rows(self._mesh, self._batch)
        _, _, embeddings = self._observe(state, inputs, np.uint32(0))
        row = {'epoch': epoch, 'step': int(state.step)}
        for view, own in sorted(embeddings.items()):
            rows = np.concatenate(hosts.gather(parallel.own_rows_of(own)))
            row |= {f'{view}_{name}': value for name, value in spread(rows).items()}
        hosts.on_first(self._write, row)

    def _write(self, row: dict) -> None:
        """Appends the row; rows of an epoch that is trained again are replaced."""
        before = self._path.read_text().splitlines() if self._path.is_file() else []
        kept = [line for line in before if json.loads(line)['epoch'] < row['epoch']]
        write_text(self._path, '\n'.join([*kept, json.dumps(row)]) + '\n')
