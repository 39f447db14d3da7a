"""The classifier: cross-entropy of softmax, its weights, focal loss, smoothing and masks."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.tasks.classify import Classify, image_weights, softmax_losses
from cxr_jax.tasks.classwise import class_sums, masked_mean
from tests.parity import reference as ref

OPTIONS = {
    'plain': {},
    'weights': {'weights': (0.3, 2.0, 1.1, 0.7, 1.9, 0.2, 0.5, 1.3)},
    'focal': {'focal': 2.0},
    'focal below 1': {'focal': 0.5},
    'smoothing': {'smoothing': 0.1},
    'everything': {'weights': (1.3, 0.4) * 4, 'focal': 1.5, 'smoothing': 0.2},
}


def draw(rng, batch, width):
    return {'logits': 3 * rng.normal(size=(batch, width)), 'labels': rng.integers(0, width, batch)}


def rows_by_loops(logits, labels, weights=(), focal=0.0, smoothing=0.0):
    """The loss of each row."""
    losses = []
    for row, label in zip(ref.log_softmax(logits), labels, strict=True):
        loss = 0
        for k, log_p in enumerate(row):
            target = (k == label) * (1 - smoothing) + smoothing / len(row)
            loss = loss - target * (1 - np.exp(log_p)) ** focal * log_p
        losses.append(loss * (weights[label] if weights else 1))
    return np.array(losses)


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_objective(options):
    def loss(logits, labels):
        return softmax_losses(logits, labels, **options).mean()

    def reference(logits, labels):
        return rows_by_loops(logits, labels, **options).mean()

    ref.assert_parity(loss, reference, draw, 100 if not options else 30)


def test_the_task_has_these_losses():
    def loss(logits, labels):
        return Classify(outputs=logits.shape[1]).objective(logits, labels, {})[0]

    ref.assert_parity(loss, ref.cross_entropy, draw, 12)

    def with_everything(logits, labels):
        width = logits.shape[1]
        task = Classify(outputs=width, focal=1.5, smoothing=0.2, weights=(1.3, 0.4) * (width // 2))
        return task.objective(logits, labels, {})[0]

    def reference(logits, labels):
        return rows_by_loops(logits, labels, **OPTIONS['everything']).mean()

    def even(rng, batch, width):
        return draw(rng, batch, 4)

    ref.assert_parity(with_everything, reference, even, 12)


@pytest.mark.parametrize('in_use', ['some', 'none', 'zero'])
def test_mean_over_the_classes_that_are_in(in_use):
    """By their number, so that a loss of 0 counts; over all rows if none is in."""

    def some(rng, batch, width):
        arrays = draw(rng, batch, width)
        if in_use == 'zero':  # of the first row: exp(-800) is 0
            arrays['labels'][0] = 0
            arrays['logits'][0] = np.where(np.arange(width) == 0, 800, 0)
        mask = rng.integers(0, 2, width) if in_use == 'some' else np.zeros(width, int)
        mask[0] = in_use == 'zero'
        return arrays | {'mask': mask}

    def loss(logits, labels, mask):
        losses = softmax_losses(logits, labels)
        return masked_mean(losses, jnp.asarray(mask)[labels].astype(losses.dtype))

    def reference(logits, labels, mask):
        losses = rows_by_loops(logits, labels)
        kept = [loss for loss, label in zip(losses, labels, strict=True) if mask[label]]
        return np.mean(kept if kept else losses)

    ref.assert_parity(loss, reference, some, 30)


def test_sums_of_each_class():
    for seed, batch, width in ref.cases(6):
        arrays = draw(np.random.default_rng(seed), batch, width)
        losses = arrays['logits'][:, 0].astype(np.float32)
        found = class_sums(jnp.asarray(losses), jnp.asarray(arrays['labels']), width)
        expected = np.zeros((2, width))
        for loss, label in zip(losses, arrays['labels'], strict=True):
            expected[:, label] += loss, 1
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['balanced', 'effective'])
def test_weights_of_classes(kind):
    counts = [5, 1, 40, 20000, 0]
    found = image_weights(kind, counts)
    at_least_one = [max(count, 1) for count in counts]
    if kind == 'balanced':
        raw = [1 / n for n in at_least_one]
    else:  # the geometric series that an effective number is
        raw = [1 / sum(0.9999**i for i in range(n)) for n in at_least_one]
    mean = sum(n * w for n, w in zip(at_least_one, raw, strict=True)) / sum(at_least_one)
    np.testing.assert_allclose(found, np.array(raw) / mean, rtol=1e-9)
    assert image_weights(kind, [[5, 1], [7, 7]])[1] == pytest.approx((1, 1))


def test_accuracy_and_scores():
    for seed, batch, width in ref.cases(2):
        arrays = draw(np.random.default_rng(seed), batch, width)
        logits, labels = jnp.asarray(arrays['logits']), jnp.asarray(arrays['labels'])
        task = Classify(outputs=width)
        _, metrics, _ = task.objective(logits, labels, {})
        right = np.mean([row.argmax() == own for row, own in zip(*arrays.values(), strict=True)])
        np.testing.assert_allclose(metrics['accuracy'], right, rtol=1e-6)
        expected = np.exp(ref.log_softmax(arrays['logits']))
        np.testing.assert_allclose(task.scores(logits), expected, rtol=1e-4, atol=1e-7)
