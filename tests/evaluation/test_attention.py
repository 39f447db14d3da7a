"""Class activation maps and AIL against golden vectors, closed forms and invariances."""

import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.evaluation.maps.cam import class_activation_map, enlarge
from cxr_jax.evaluation.maps.lungs import attention_inside_lungs, lung_area_fraction

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'cam_ail.npz'


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture
def maps():
    """Five signed maps and five random masks."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 12, 12)), (rng.random((5, 12, 12)) < 0.3).astype(np.uint8)


def test_cam_of_the_golden_vector(golden):
    cam = class_activation_map(golden['feature_map'], golden['kernel'], golden['predicted'])
    assert cam.dtype == jnp.float32
    np.testing.assert_allclose(cam, golden['cam'], rtol=1e-6, atol=1e-6)


def test_enlarged_cam_of_the_golden_vector(golden):
    np.testing.assert_allclose(
        enlarge(golden['cam'], 56), golden['cam_56'], rtol=1e-6, atol=1e-6
    )


def test_ail_of_the_golden_vector_from_features_on(golden):
    @jax.jit
    def pipeline(features, kernel, predicted, mask):
        cam = enlarge(class_activation_map(features, kernel, predicted), 56)
        return attention_inside_lungs(cam, mask), lung_area_fraction(mask)

    ail, area = pipeline(*(golden[k] for k in ('feature_map', 'kernel', 'predicted', 'lung_mask')))
    assert float(ail) == pytest.approx(float(golden['ail']), abs=1e-6)
    assert float(area) == pytest.approx(float(golden['lung_area_fraction']), abs=1e-6)


def test_numpy_stays_numpy_in_double_precision(golden):
    ail = attention_inside_lungs(golden['cam_56'], golden['lung_mask'])
    assert isinstance(ail, np.floating) and ail.dtype == np.float64
    assert ail == pytest.approx(float(golden['ail']), abs=1e-14)
    area = lung_area_fraction(golden['lung_mask'])
    assert area == pytest.approx(float(golden['lung_area_fraction']), abs=1e-15)


def test_mean_of_the_cam_plus_bias_is_the_logit():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(2, 3, 5, 4, 16)).astype(np.float32)
    kernel, bias = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=3)
    logits = features.astype(np.float64).mean((-3, -2)) @ kernel + bias
    for k in range(3):
        cam = class_activation_map(features, kernel, k)
        np.testing.assert_allclose(cam.mean((-2, -1)) + bias[k], logits[..., k], atol=1e-5)


def test_each_image_gets_the_cam_of_its_own_class():
    rng = np.random.default_rng(2)
    features, kernel = rng.normal(size=(4, 3, 3, 8)), rng.normal(size=(8, 5))
    classes = np.array([3, 0, 3, 4])
    cams = class_activation_map(features, kernel, classes)
    for cam, feature, k in zip(cams, features, classes, strict=True):
        np.testing.assert_allclose(cam, feature @ kernel[:, k], atol=1e-5)


def test_grad_cam_of_a_pooled_linear_head_is_the_positive_cam_over_its_area():
    rng = np.random.default_rng(3)
    features = jnp.asarray(rng.normal(size=(4, 6, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)
    gradient = jax.grad(lambda a: (a.mean((0, 1)) @ kernel)[1])(features)
    grad_cam = jax.nn.relu((features * gradient.mean((0, 1))).sum(-1))
    cam = class_activation_map(features, kernel, 1)
    np.testing.assert_allclose(grad_cam, jax.nn.relu(cam) / 24, atol=1e-6)


def test_bfloat16_features_are_summed_in_float32():
    features = jnp.full((1, 1, 4096), 1.0, jnp.bfloat16)
    kernel = jnp.full((4096, 1), 1 + 2**-7, jnp.bfloat16)
    assert float(class_activation_map(features, kernel, 0)[0, 0]) == 4096 + 32


def test_enlarging_a_plane_leaves_it_a_plane_away_from_the_border():
    rows, columns = np.mgrid[:6, :6] + 0.5
    large = enlarge(jnp.asarray(2 * rows - columns), 24)
    rows, columns = (np.mgrid[:24, :24] + 0.5) / 4
    np.testing.assert_allclose(large[2:-2, 2:-2], (2 * rows - columns)[2:-2, 2:-2], atol=1e-5)
    assert float(large[0, 0]) == pytest.approx(0.5)  # clamped at the outer pixel's centre


def test_uniform_map_has_the_lung_area_fraction_as_ail(maps):
    masks = maps[1]
    uniform = np.full(masks.shape, 0.7)
    np.testing.assert_allclose(
        attention_inside_lungs(uniform, masks), lung_area_fraction(masks), rtol=1e-12
    )


def test_ail_ignores_scale_and_counts_only_positive_values(maps):
    cams, masks = maps
    ail = attention_inside_lungs(cams, masks)
    np.testing.assert_allclose(attention_inside_lungs(17.3 * cams, masks), ail, rtol=1e-12)
    deeper = np.where(cams < 0, 100 * cams, cams)
    np.testing.assert_array_equal(attention_inside_lungs(deeper, masks), ail)
    np.testing.assert_allclose(ail + attention_inside_lungs(cams, 1 - masks), 1, rtol=1e-12)


def test_mask_may_be_bool_or_0_255(maps):
    cams, masks = maps
    ail = attention_inside_lungs(cams, masks)
    np.testing.assert_array_equal(attention_inside_lungs(cams, masks > 0), ail)
    np.testing.assert_array_equal(attention_inside_lungs(cams, masks * np.uint8(255)), ail)
    np.testing.assert_array_equal(lung_area_fraction(masks * np.uint8(255)), masks.mean((1, 2)))


@pytest.mark.parametrize('wrap', [np.asarray, jnp.asarray])
def test_map_without_positive_value_is_nan_without_a_warning(maps, wrap):
    cams, masks = maps[0].copy(), maps[1]
    cams[1] = -np.abs(cams[1])
    cams[3] = 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ail = np.asarray(attention_inside_lungs(wrap(cams), wrap(masks)))
    np.testing.assert_array_equal(np.isnan(ail), [False, True, False, True, False])


def test_grids_that_differ_are_an_error(maps):
    with pytest.raises(ValueError, match='differ'):
        attention_inside_lungs(maps[0], maps[1][..., None])
