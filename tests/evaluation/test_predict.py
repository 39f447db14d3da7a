"""What a readout is given of an image: decided by the encoder's contract alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.evaluation.predict import gallery_arrays, predict, predict_scores
from cxr_jax.models.encoder import Contract, Features
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Looking:
    """An encoder whose only feature is the mean of what it sees."""

    contract: Contract

    def __call__(self, params, batch_stats, images, train=True, groups=1):
        return Features({'last': images}, images.mean((1, 2)), {})


@dataclasses.dataclass(frozen=True)
class Mean:
    """A readout whose score is that feature."""

    image_size: int = tiny.SIZE

    def logits(self, params, features):
        return features.pooled

    def scores(self, logits):
        return jnp.concatenate([logits, 1 - logits], -1)

    def evidence(self, params):
        return jnp.ones((1, 2))


PARTS = {part: {'params': {}, 'batch_stats': {}} for part in ('encoder', 'head')}


@pytest.mark.parametrize('fill', [0.0, 0.3, 0.9])
def test_the_grey_around_the_lungs_is_the_contracts(tiny_data, fill):
    """Not the mean of the set that is predicted: a model sees its own grey on any hospital's."""
    contract = Contract(tiny.SIZE, 8, 1, 'lungs_gray', mean=0.5, std=0.2, fill=fill)
    corpus = tiny_data.corpus('test')
    [(prepared, rows)] = corpus.parts
    records = prepared.read(rows, ('image', 'lung_mask'))
    image, mask = (np.stack([r[k] for r in records])[..., 0] for k in ('image', 'lung_mask'))
    seen = np.where(mask > 0, image / 255, fill)
    labels, mesh = np.zeros(len(corpus), np.int32), tiny.one_device()
    found = predict(Mean(), Looking(contract), PARTS, corpus, labels, mesh, 4)
    np.testing.assert_allclose(found.scores[:, 0], seen.mean((1, 2)), rtol=1e-5)
    again = predict_scores(Mean(), Looking(contract), PARTS, corpus, mesh, 4)
    np.testing.assert_array_equal(again, found.scores)
    shown = gallery_arrays(found, np.array([0, 2]), tiny.SIZE, contract, corpus)
    np.testing.assert_allclose(shown['images'][..., 0], seen[[0, 2]], atol=1e-6)
