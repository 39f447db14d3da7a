"""Class activation maps (Zhou et al. 2016, arXiv:1512.04150)."""

import jax
import jax.numpy as jnp


def class_activation_map(
    feature_map: jax.Array, kernel: jax.Array, class_index: jax.Array | int
) -> jax.Array:
    """CAM of one class per image: M(y, x) = sum_k w[k, class] A[y, x, k].

    feature_map [..., H, W, C] is the last one before global average pooling, kernel [C, K] the
    linear layer after it, class_index a scalar or one class per image [...]. Returns
    [..., H, W], at least float32. The bias is not used: sum(M) / (H W) + bias = the logit.
    """
    # Sums over 2,048 channels lose the third digit in bfloat16, and AIL is a ratio of such sums.
    dtype = jnp.promote_types(jnp.result_type(feature_map), jnp.float32)
    features = jnp.asarray(feature_map, dtype)
    weights = jnp.asarray(kernel, dtype).T[jnp.asarray(class_index)]
    weights = jnp.broadcast_to(weights, features.shape[:-3] + features.shape[-1:])
    return jnp.einsum('...hwc,...c->...hw', features, weights, precision='highest')


def enlarge(cam: jax.Array, size: int) -> jax.Array:
    """Resizes maps [..., H, W] to [..., size, size], bilinear with half-pixel centres."""
    shape = (*cam.shape[:-2], size, size)
    return jax.image.resize(cam, shape, 'bilinear', antialias=False)
