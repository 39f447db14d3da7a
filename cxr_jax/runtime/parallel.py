"""The mesh and its few collectives. Every train step runs under one axis, `data`.

Inside `shard_map` an array is replicated (same on every device) or varying. Gradients with respect
to replicated parameters come out summed over the devices, so a loss is averaged with `mean` before
it is differentiated, and gradients are not averaged again.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'data'


def data_mesh(devices=None) -> Mesh:
    """One-dimensional mesh over `devices` (default: all of every process)."""
    # Ordered by process, so that each holds consecutive rows of a batch.
    devices = devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,))


def sharded(function, mesh: Mesh, in_specs, out_specs, donate=()):
    """jit of the per-device `function`; a spec is True (rows sharded over `data`) or False."""
    spec = {True: PartitionSpec(AXIS), False: PartitionSpec()}
    in_specs, out_specs = jax.tree.map(spec.get, (in_specs, out_specs))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    return jax.jit(mapped, donate_argnums=donate)


def mean(tree):
    """Mean over the devices of per-device means (equal shares): replicated."""
    return jax.tree.map(lambda x: lax.pmean(x, AXIS), tree)


def rows_of_all(x):
    """This device's rows [b, ...] -> every device's rows [B, ...], in global order, replicated.

    A sum of zero-padded placements: an all_gather would be typed as varying, and a replicated
    queue could not be built from it.
    """
    start = lax.axis_index(AXIS) * x.shape[0]
    whole = jnp.zeros((x.shape[0] * lax.axis_size(AXIS), *x.shape[1:]), x.dtype)
    whole = lax.pcast(whole, (AXIS,), to='varying')
    return lax.psum(lax.dynamic_update_slice_in_dim(whole, x, start, 0), AXIS)


def own_rows(x):
    """Replicated rows [B, ...] -> this device's share [b, ...]."""
    share = x.shape[0] // lax.axis_size(AXIS)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(AXIS) * share, share, 0)


def put_rows(mesh: Mesh, batch: dict) -> dict:
    """This process's rows (NumPy) -> arrays sharded over the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def own_rows_of(tree):
    """Arrays sharded over the mesh -> this process's rows (NumPy), in order."""

    def own(x):
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([shard.data for shard in shards])

    return jax.tree.map(own, tree)


def keep(mesh: Mesh, arrays: dict) -> dict:
    """Host arrays, equal in all processes, on every device: to be read, never donated."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return {
        name: jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
        for name, array in arrays.items()
    }


def replicate(mesh: Mesh, tree):
    """Host arrays, equal in all processes, -> fresh arrays replicated over the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda t: t, out_shardings=sharding)(tree)
