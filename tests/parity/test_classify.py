"""The classifier: cross-entropy of softmax over the classes."""

import jax.numpy as jnp
import numpy as np

from cxr_jax.tasks.classify import Classify
from tests.parity import reference as ref


def draw(rng, batch, width):
    return {'logits': 3 * rng.normal(size=(batch, width)), 'labels': rng.integers(0, width, batch)}


def test_objective():
    def loss(logits, labels):
        return Classify(outputs=logits.shape[1]).objective(logits, labels)[0]

    ref.assert_parity(loss, ref.cross_entropy, draw)


def test_accuracy_and_scores():
    for seed, batch, width in ref.cases(2):
        arrays = draw(np.random.default_rng(seed), batch, width)
        logits, labels = jnp.asarray(arrays['logits']), jnp.asarray(arrays['labels'])
        task = Classify(outputs=width)
        _, metrics = task.objective(logits, labels)
        right = np.mean([row.argmax() == own for row, own in zip(*arrays.values(), strict=True)])
        np.testing.assert_allclose(metrics['accuracy'], right, rtol=1e-6)
        expected = np.exp(ref.log_softmax(arrays['logits']))
        np.testing.assert_allclose(task.scores(logits), expected, rtol=1e-4, atol=1e-7)
