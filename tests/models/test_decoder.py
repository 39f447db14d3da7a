"""The decoder over maps of any sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.decoder import Decoder, enlarge


def test_enlarging_is_bilinear():
    x = np.random.default_rng(0).random((2, 3, 3, 2)).astype(np.float32)
    centres = (np.arange(6) + 0.5) / 2 - 0.5
    weights = np.maximum(1 - abs(centres.clip(0, 2)[:, None] - np.arange(3)), 0)
    np.testing.assert_allclose(
        enlarge(x, 6), np.einsum('ij,kl,bjlc->bikc', weights, weights, x), rtol=1e-5
    )


@pytest.mark.parametrize(
    ('sides', 'size', 'levels'),
    [
        ((16, 8, 4, 2), 64, 4), ((15, 7, 3, 1), 60, 4), ((8, 4, 2, 1), 29, 4), ((12, 6), 24, 1),
        ((5,), 40, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize('norm', ['batch', 'instance'])
def test_decoder_draws_images_of_the_size_of_the_input(sides, size, levels, norm):
    """Whatever an encoder's maps are: ResNet's, DenseNet's odd ones, two, one."""
    maps = [jnp.zeros((2, side, side, 3 + i)) for i, side in enumerate(sides)]
    decoder = Decoder(2, norm)
    made = jax.eval_shape(lambda: decoder.init_with_output(jax.random.key(0), maps, size))
    assert made[0].shape == (2, size, size, 1) and made[0].dtype == jnp.float32
    assert ('batch_stats' in made[1]) == (norm == 'batch')
    widths = {x.shape[-1] for x in jax.tree.leaves(made[1]['params']) if x.ndim == 4}
    assert widths == {2 * 2**level for level in range(levels)}


def test_instance_norm_sees_one_image_at_a_time():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(3, side, side, 4)).astype(np.float32) for side in (8, 4)]
    decoder = Decoder(3, 'instance')
    variables = jax.jit(lambda maps: decoder.init(jax.random.key(1), maps, 16))(maps)
    draw = jax.jit(lambda maps: decoder.apply(variables, maps, 16))
    together, alone = draw(maps), draw([each[1:2] for each in maps])
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6)
    shifted = draw([3 * each for each in maps])
    np.testing.assert_allclose(shifted, together, atol=1e-3)
