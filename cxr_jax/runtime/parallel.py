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


# Rows of an array by image are rounded up to a multiple of this: its shape does not depend on the
# number of devices, which must divide it.
ROWS = 512


def sharded(function, mesh: Mesh, in_specs, out_specs, donate=()):
    """jit of the per-device `function`; a spec is True (rows sharded over `data`) or False."""
    spec = {True: PartitionSpec(AXIS), False: PartitionSpec()}
    in_specs, out_specs = jax.tree.map(spec.get, (in_specs, out_specs))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    return jax.jit(mapped, donate_argnums=donate)


def padded(images: int) -> int:
    """Rows of an array by image, sharded over the mesh, that holds so many images."""
    return -(-images // ROWS) * ROWS


def own_numbers(shard):
    """Numbers in the whole array of the rows [n, ...] that this device holds: int [n]."""
    return lax.axis_index(AXIS) * shard.shape[0] + jnp.arange(shard.shape[0])


def take(shard, rows):
    """Values [b, ...] of the given rows, int [b], of an array whose shards all devices hold."""
    everyone = rows_of_all(rows)
    local, mine = _local(shard, everyone)
    values = shard[jnp.where(mine, local, 0)]
    mine = mine.reshape(-1, *[1] * (values.ndim - 1))
    return own_rows(lax.psum(jnp.where(mine, values, 0), AXIS))


def put(shard, rows, values):
    """The shard after every device has written its values [b, ...] to its rows, int [b]; where a
    row comes again, as at the border of two epochs, the last one stays."""
    everyone, values = rows_of_all(rows), rows_of_all(values)
    local, mine = _local(shard, everyone)
    mine &= ~jnp.triu(everyone[:, None] == everyone, 1).any(1)
    return shard.at[jnp.where(mine, local, shard.shape[0])].set(values, mode='drop')


def _local(shard, rows):
    """(places of the rows in this shard, which of them it holds)."""
    local = rows - lax.axis_index(AXIS) * shard.shape[0]
    return local, (local >= 0) & (local < shard.shape[0])


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
    """Host arrays, equal in all processes, or arrays of the mesh -> fresh replicated ones."""
    return place(mesh, tree, PartitionSpec())


def place(mesh: Mesh, tree, specs):
    """As `replicate`, spread as `specs` says: a PartitionSpec, or a tree of them."""
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)
    return jax.jit(lambda t: t, out_shardings=shardings)(tree)


def _is_spec(x) -> bool:
    return isinstance(x, PartitionSpec)
