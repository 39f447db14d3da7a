"""Batch statistics of whole images against those that batch norm computes in training."""

import jax
import numpy as np
import pytest

from cxr_jax.models.norm import EPSILON
from cxr_jax.runtime import parallel
from cxr_jax.train.features import corpus_features, whole_image_statistics
from data_pipelines.prepared import loader
from tests import tiny


@pytest.fixture(scope='module')
def made(tiny_data):
    """(encoder, part with odd statistics, 32 images, the same as the encoder's input)."""
    stage = tiny.make_stages(tiny_data, 'scratch')['classify']
    part = tiny.fresh_parts(stage.encoder)['encoder']
    odd = jax.tree.map(lambda x: x + 3, part['batch_stats'])
    corpus = stage.train.corpus.take(np.arange(32))
    images = stage.encoder.contract.images(loader.whole(corpus))
    return stage.encoder, part | {'batch_stats': odd}, corpus, images


def test_evaluation_is_then_training(made):
    """On one batch: features in evaluation mode are those in training mode, whatever was there
    before, but for the unbiased variance of the running statistics."""
    encoder, part, corpus, images = made
    size = corpus.size
    stats = whole_image_statistics(encoder, tiny.one_device(), part, corpus, size, 32)
    own = part | {'batch_stats': stats}
    found = corpus_features(encoder, tiny.one_device(), own, corpus, size, 32)

    def training(images):
        return encoder(part['params'], part['batch_stats'], images).pooled

    expected = parallel.sharded(training, tiny.one_device(), (True,), True)(images)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())
    assert stats['first_norm']['var'].min() > 10 * EPSILON


def test_batches_are_averaged_on_any_number_of_devices(made):
    """Of the four batches of 8, each as the only one; what does not fill a batch is left out."""
    encoder, part, corpus, _ = made
    size, mesh = corpus.size, tiny.one_device()
    each = [
        whole_image_statistics(encoder, mesh, part, corpus.take(np.arange(n, n + 8)), size, 8)
        for n in range(0, 32, 8)
    ]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)
    for devices in (1, 4):
        own = parallel.data_mesh(jax.devices()[:devices])
        found = whole_image_statistics(encoder, own, part, corpus, size, 8)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    short = whole_image_statistics(encoder, mesh, part, corpus.take(np.arange(15)), size, 8)
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(each[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
