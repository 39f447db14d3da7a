"""Encoders: what their contract makes of stored pixels, and the features of every stage."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.encoder import (
    ENCODERS,
    Contract,
    Encoder,
    EncoderSettings,
    build_encoder,
    build_network,
)
from cxr_jax.views.region import REGIONS
from data_pipelines.errors import UserError
from tests import small_network

CONTRACT = Contract(size=12, bits=8, channels=1, region='full', mean=0.4, std=0.2, fill=0.6)
# Channels of the pooled features at a stem of 64.
FEATURE_WIDTHS = {
    'resnet18': 512, 'resnet34': 512, 'resnet50': 2048, 'resnet101': 2048, 'densenet121': 1024,
}  # fmt: skip


class Looking(nn.Module):
    """Its only map is its input."""

    stages = ('input',)
    feature_width = 1
    smallest_image = 1

    @nn.compact
    def __call__(self, x, train, groups=1):
        return {'input': x}


def stored_pixels(seed, brightest):
    """A set of images with statistics of its own, and lung masks."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, brightest, (4, 12, 12, 1), endpoint=True).astype(np.uint8)
    return {'image': images, 'lung_mask': rng.integers(0, 2, images.shape).astype(np.uint8)}


def seen(contract, batch):
    """What the network is given for stored pixels."""
    encoder = Encoder(EncoderSettings(), Looking(), contract)
    return np.asarray(encoder({}, {}, contract.images(batch), train=False).last)


@pytest.mark.parametrize('region', REGIONS)
def test_the_input_follows_from_the_pixels_and_the_contract_alone(region):
    """In NumPy; the same images within a set that is darker otherwise are the same input."""
    contract = dataclasses.replace(CONTRACT, region=region)
    batch = stored_pixels(0, 255)
    pixels, lungs = batch['image'] / 255, batch['lung_mask'] == 1
    kept = {
        'full': pixels,
        'lungs_black': np.where(lungs, pixels, 0),
        'lungs_gray': np.where(lungs, pixels, 0.6),
        'background': np.where(lungs, 0, pixels),
    }[region]
    found = seen(contract, batch)
    np.testing.assert_allclose(found, (kept - 0.4) / 0.2, rtol=1e-5, atol=1e-5)
    dark = stored_pixels(1, 30)
    mixed = {name: np.concatenate([batch[name][:2], dark[name]]) for name in batch}
    np.testing.assert_array_equal(seen(contract, mixed)[:2], found[:2])


def test_masks_are_needed_where_the_region_has_a_border():
    assert [dataclasses.replace(CONTRACT, region=r).needs_masks for r in REGIONS] == [0, 1, 1, 1]
    batch = stored_pixels(0, 255)
    del batch['lung_mask']
    assert np.isfinite(seen(CONTRACT, batch)).all()


def test_three_channels_repeat_the_grey_image():
    batch = stored_pixels(0, 255)
    three = seen(dataclasses.replace(CONTRACT, channels=3), batch)
    np.testing.assert_array_equal(three, seen(CONTRACT, batch).repeat(3, axis=-1))
    with pytest.raises(ValueError, match='channels'):
        build_encoder(EncoderSettings(channels=3), CONTRACT)


def test_colour_is_seen_as_it_is_and_never_as_grey():
    """One mean and deviation for all channels; the region is cut out of each."""
    colours = np.random.default_rng(3).integers(0, 256, (4, 12, 12, 3)).astype(np.uint8)
    batch = {'image': colours, 'lung_mask': stored_pixels(0, 255)['lung_mask']}
    contract = dataclasses.replace(CONTRACT, channels=3, region='lungs_gray')
    kept = np.where(batch['lung_mask'] == 1, colours / 255, 0.6)
    np.testing.assert_allclose(seen(contract, batch), (kept - 0.4) / 0.2, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match='channels=3'):
        CONTRACT.images(batch)


@pytest.mark.parametrize('changed', [{'size': 14}, {'bits': 16}])
def test_images_of_another_preparation_are_refused(changed):
    contract = dataclasses.replace(CONTRACT, **changed)
    with pytest.raises(UserError, match='was given images of 12 px and 8 bits'):
        contract.images(stored_pixels(0, 255))


@pytest.mark.parametrize('name', [name for name in ENCODERS if name != small_network.NAME])
def test_every_stage_has_its_map(name):
    """Names in order, sizes halved from a quarter on, channels; as the encoder promises them."""
    encoder = build_encoder(EncoderSettings(name, width=8, dtype='bfloat16'), CONTRACT)
    assert build_network(EncoderSettings(name)).feature_width == FEATURE_WIDTHS[name]
    assert encoder.feature_width == FEATURE_WIDTHS[name] // 8
    images = jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32)
    variables = jax.eval_shape(functools.partial(encoder.init, size=64), jax.random.key(0))
    call = functools.partial(encoder, train=False)
    features = jax.eval_shape(call, *variables, images)
    assert tuple(features.maps) == encoder.stages
    sizes = {stage: m.shape[:3] for stage, m in features.maps.items()}
    assert list(sizes.values()) == [(2, s, s) for s in (16, 8, 4, 2)]
    first = {'resnet50': 32, 'resnet101': 32, 'densenet121': 8 + 6 * 4}.get(name, 8)
    assert features.maps[encoder.stages[0]].shape[-1] == first
    assert features.last.shape[-1] == encoder.feature_width
    assert features.pooled.shape == (2, encoder.feature_width)
    arrays = (*features.maps.values(), features.pooled)
    assert {x.dtype for x in arrays} == {jnp.dtype('float32')}


@pytest.mark.parametrize('name', [name for name in ENCODERS if name != small_network.NAME])
def test_the_smallest_image_leaves_a_pixel(name):
    encoder = build_encoder(EncoderSettings(name, width=2), CONTRACT)
    size = encoder.smallest_image
    variables = jax.eval_shape(functools.partial(encoder.init, size=size), jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    features = jax.eval_shape(functools.partial(encoder, train=False), *variables, images)
    assert features.last.shape == (2, 1, 1, encoder.feature_width)


@pytest.fixture(scope='module')
def trained():
    """(encoder on this device alone, params, batch_stats, images)."""
    encoder = build_encoder(EncoderSettings('resnet18', width=4), CONTRACT)
    encoder = dataclasses.replace(encoder, network=encoder.network.clone(axis_name=None))
    images = np.random.default_rng(0).random((4, 64, 64, 1), np.float32)
    return encoder, *jax.jit(encoder.init, static_argnums=1)(jax.random.key(0), 64), images


def test_training_moves_the_statistics_and_evaluation_leaves_them(trained):
    encoder, params, batch_stats, images = trained
    features = encoder(params, batch_stats, images, train=False)
    assert features.batch_stats is batch_stats
    for stage, found in features.maps.items():
        assert np.std(found) > 0, stage
    pooled = np.asarray(features.last, float).mean((1, 2))
    np.testing.assert_allclose(features.pooled, pooled, rtol=1e-5, atol=1e-7)

    moved = jax.jit(encoder)(params, batch_stats, images).batch_stats
    assert jax.tree.structure(moved) == jax.tree.structure(batch_stats)
    for new, old in zip(jax.tree.leaves(moved), jax.tree.leaves(batch_stats), strict=True):
        assert abs(new - old).max() > 0


def test_the_gradient_of_a_map_stops_at_its_stage(trained):
    """Every map is of the network's own path: later stages have no part in it."""
    encoder, params, batch_stats, images = trained

    def loss(params):
        return encoder(params, batch_stats, images, train=False).maps['layer2'].sum()

    gradients = jax.jit(jax.grad(loss))(params)
    moving = {
        block.partition('_')[0]
        for block, tree in gradients.items()
        if any(abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
    }
    assert moving == {'conv1', 'bn1', 'layer1', 'layer2'}
