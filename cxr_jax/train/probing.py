"""What the frozen encoder of a state is good for, as its features tell without any training."""

import math
import pathlib

import numpy as np

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.probes import knn_scores, ridge_probe, ridge_scores
from cxr_jax.runtime import hosts
from cxr_jax.train.features import corpus_features
from cxr_jax.train.monitor import Monitor, Record, say
from cxr_jax.train.stage import Probed, Stage
from data_pipelines.prepared.corpus import Corpus

PROBES_FILE = 'probes.jsonl'
BATCH = 64  # images at a time: the same for all stages, which share what is compiled
IMAGES = 2048  # most of those whose features are looked at without labels


def features_of(stage: Stage, mesh, state, corpus: Corpus) -> np.ndarray:
    """Pooled features [N, D] of whole images, at the size at which the run's readout sees them."""
    size = stage.probed.image_size if stage.probed else stage.task.image_size
    batch = -(-BATCH // mesh.size) * mesh.size
    return corpus_features(stage.encoder, mesh, state.parts['encoder'], corpus, size, batch)


def training_features(stage: Stage, mesh, state) -> np.ndarray:
    """features_of the training images, or of IMAGES of them, evenly spaced."""
    corpus = stage.train.corpus
    rows = np.linspace(0, len(corpus) - 1, min(len(corpus), IMAGES)).round().astype(int)
    return features_of(stage, mesh, state, corpus.take(rows))


def probe(stage: Stage, mesh, state) -> dict[str, float]:
    """{'knn', 'ridge'}: headline measure of the target on the labelled validation images.

    Of the votes of the nearest labelled training images, and of a ridge regression on them.
    """
    probed = stage.probed
    features = [
        features_of(stage, mesh, state, part.corpus) for part in (probed.train, probed.validation)
    ]
    return hosts.on_first(_judged, probed, *features)


def _judged(probed: Probed, bank: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    if not (np.isfinite(bank).all() and np.isfinite(queries).all()):
        return {'knn': math.nan, 'ridge': math.nan}
    labels, classes = probed.train.labels, len(probed.names)
    ridge = ridge_probe(bank, labels, classes)
    found = {
        'knn': knn_scores(bank, labels, queries, classes),
        'ridge': ridge_scores(ridge, queries),
    }
    headline, judged = measures.headline(probed.exclusive), probed.validation
    facts = {
        'labels': judged.labels, 'patients': judged.corpus.groups,
        'image_ids': judged.corpus.column('image_id'),
    }  # fmt: skip
    return {
        name: measures.value(headline, facts | {'scores': scores}, probed.names, probed.exclusive)
        for name, scores in found.items()
    }


class Probes(Monitor):
    """Probes the encoder before the first step, every `epochs` and at the end of the stage.

    A row in probes.jsonl: epoch, step, knn, ridge (null where undefined).
    """

    def __init__(self, stage: Stage, directory: pathlib.Path, epochs: int, mesh):
        self._stage, self._every, self._mesh = stage, epochs, mesh
        self._record = hosts.on_first(Record, directory / PROBES_FILE)

    def begin(self, step, state):
        hosts.on_first(lambda: self._record.rewind(step))
        if step == 0:
            self._probe(0, state)

    def epoch_ended(self, epoch, state):
        if epoch % self._every == 0 or epoch == self._stage.settings.epochs:
            self._probe(epoch, state)

    def _probe(self, epoch: int, state) -> None:
        found = probe(self._stage, self._mesh, state)
        hosts.on_first(self._write, epoch, int(state.step), found)

    def _write(self, epoch: int, step: int, found: dict[str, float]) -> None:
        plain = {name: value if math.isfinite(value) else None for name, value in found.items()}
        self._record.add({'epoch': epoch, 'step': step} | plain)
        measure = measures.headline(self._stage.probed.exclusive).title
        say(
            f'  {self._stage.name}: epoch {epoch}, {measure} on the validation images of frozen '
            f'features: nearest neighbours {found["knn"]:.3f}, ridge probe {found["ridge"]:.3f}'
        )
