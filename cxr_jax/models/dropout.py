"""Dropout that does not depend on the number of devices."""

import jax
import jax.numpy as jnp

from cxr_jax.runtime import parallel


def kept_units(key, rows: int, width: int, rate: float):
    """Dropout's factors [rows, width], 0 or 1 / (1 - rate), for this device's rows.

    Each row draws from its number in the global batch.
    """
    numbers = jax.lax.axis_index(parallel.AXIS) * rows + jnp.arange(rows)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    kept = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, (width,)))(keys)
    return kept / (1 - rate)
