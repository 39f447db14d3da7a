"""Segmentation: binary cross-entropy plus soft Dice."""

from types import SimpleNamespace

import jax
import numpy as np

from cxr_jax.models.encoder import Features
from cxr_jax.tasks.segment import Segment, soft_dice, standardised
from tests.parity import reference as ref


def network(params, batch_stats, images):
    return Features({'logits': images * params['scale'] + params['shift']}, None, batch_stats)


def plain(logits, mask):
    p = 1 / (1 + np.exp(-logits))
    entropy = -(mask * np.log(p) + (1 - mask) * np.log(1 - p)).mean()
    total = 0
    for own, lungs in zip(p, mask, strict=True):
        total = total + (2 * (own * lungs).sum() + 1) / (own.sum() + lungs.sum() + 1)
    return entropy + 1 - total / len(mask)


def test_the_whole_step():
    for seed, rows, size in ref.cases():
        rng = np.random.default_rng(seed)
        mask = (rng.random((rows, size, size, 1)) > 0.6).astype(float)
        views = {'image': rng.normal(size=mask.shape), 'mask': mask}
        params = {'encoder': {'scale': rng.normal(size=()), 'shift': rng.normal(size=())}}
        stats = {'encoder': {}}
        state = SimpleNamespace(params=params, batch_stats=stats, extra={}, step=np.int32(0))

        def loss(params, views=views):
            own = params['encoder']
            return plain(views['image'] * own['scale'] + own['shift'], views['mask'])

        ref.assert_task_parity(Segment(), network, state, views, loss)


def test_soft_dice():
    def draw(rng, batch, width):
        shape = batch, width, width, 1
        return {'probabilities': rng.random(shape), 'mask': rng.integers(0, 2, shape)}

    def overlaps(probabilities, mask):
        both = (probabilities * mask).sum((1, 2, 3))
        total = probabilities.sum((1, 2, 3)) + mask.sum((1, 2, 3))
        return ((2 * both + 0.5) / (total + 0.5)).mean()

    def loss(probabilities, mask):
        return soft_dice(probabilities, mask, 0.5).mean()

    ref.assert_parity(loss, overlaps, draw, 12)


def test_standardised():
    image = np.random.default_rng(0).normal(3, 2, (7, 7, 1))
    with jax.enable_x64(True):
        found = standardised(image)
    ref.assert_close(found, (image - image.mean()) / np.sqrt(image.var() + 1e-6))
