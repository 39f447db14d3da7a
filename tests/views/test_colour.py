"""Views of three channels: each channel is moved alike, and brightness is changed for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.views import distortion, geometry, intensity, occlusion
from cxr_jax.views.augment import Augmentation
from cxr_jax.views.patches import PatchGrid

SIZE = 24
KEY = jax.random.key(5)
MASK = jnp.zeros((SIZE, SIZE, 1)).at[4:18, 3:20].set(1.0)
EVERYTHING = Augmentation(
    crop_scale=(0.3, 0.9), rotation=30.0, blur=1.0, blur_sigma=(0.5, 2.0), solarize=1.0
)
TRANSFORMS = {
    'resize': lambda x: geometry.resize(x, 9),
    'quarter turns': geometry.four_rotations,
    'crop, turned, blurred, solarised': lambda x: EVERYTHING(KEY, x, 16),
    'patches': lambda x: PatchGrid(18, 1.2, 0.2, 0.5)(KEY, x),
    'flips': lambda x: distortion.random_flips(KEY, x, 1.0),
    'shuffle': lambda x: distortion.shuffle_locally(KEY, x),
    'block': lambda x: occlusion.block_out(KEY, x, MASK, 1.0, (0.2, 0.5), 0.85),
    'clouds': lambda x: occlusion.diffuse_noise(KEY, x, MASK, 1.0, -0.1, 0.5),
}


def image():
    return jnp.asarray(np.random.default_rng(0).random((SIZE, SIZE, 3), np.float32))


@pytest.mark.parametrize('name', TRANSFORMS)
def test_every_channel_is_what_it_would_be_alone(name):
    transform, colours = TRANSFORMS[name], image()
    alone = [transform(colours[..., k : k + 1])[..., 0] for k in range(3)]
    np.testing.assert_allclose(transform(colours), np.stack(alone, -1), atol=1e-6)


def test_brightness_and_contrast_keep_the_hue():
    """One factor and one mean for all channels: grey stays grey, differences scale alike."""
    colours = 0.4 + 0.2 * image()
    changed = intensity.random_brightness_contrast(KEY, colours, 0.2, 0.2)
    slope = float((changed.max() - changed.min()) / (colours.max() - colours.min()))
    offset = changed[0, 0, 0] - slope * colours[0, 0, 0]
    np.testing.assert_allclose(changed, slope * colours + offset, atol=1e-5)
    assert abs(slope - 1) > 0.01
    grey = jnp.repeat(colours[..., :1], 3, axis=-1)
    alone = intensity.random_brightness_contrast(KEY, grey[..., :1], 0.2, 0.2)
    changed = intensity.random_brightness_contrast(KEY, grey, 0.2, 0.2)
    np.testing.assert_allclose(changed, jnp.repeat(alone, 3, axis=-1), atol=1e-6)


def test_painted_noise_is_new_in_every_channel():
    painted = distortion.paint(KEY, jnp.zeros((SIZE, SIZE, 3)), 0.0)
    noise = painted[(painted > 0).all(-1)]
    assert len(noise) > 20 and abs(np.corrcoef(noise.T)[0, 1]) < 0.3
