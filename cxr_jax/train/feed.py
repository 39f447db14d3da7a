"""Batches on the devices: streamed from the loader, or drawn from the images that live there."""

import collections
import functools
import os

import jax

from cxr_jax.runtime import hosts, parallel
from data_pipelines.prepared import loader
from data_pipelines.prepared.data import PreparedData

SPLIT = 'train'
IN_FLIGHT = 2  # batches on their way to the devices
_resident: dict[tuple, dict] = {}  # one split at most: the stages of a curriculum share it


def batches(
    data: PreparedData, batch_size: int, seed: int, start: int, mesh, masks: bool, share: float
):
    """Endless training batches from number `start`, sharded over the mesh; as loader.train_batches.

    `share`: the images live on the devices if they take at most this share of a device's memory;
    the batches are the same then, bit for bit.
    """
    shard = (jax.process_index(), jax.process_count())
    order = data, SPLIT, batch_size, seed, start, shard
    stored = _on_devices(data, mesh, masks) if _fits(data, mesh, masks, share) else None
    if stored is None:
        _resident.clear()
        made = (parallel.put_rows(mesh, b) for b in loader.train_batches(*order, masks=masks))
    else:
        draw, rows = _compiled_draw(mesh), loader.train_rows(*order)
        made = (draw(stored, parallel.put_rows(mesh, {'row': numbers})) for numbers in rows)
    queue = collections.deque()
    for batch in made:
        queue.append(batch)
        if len(queue) >= IN_FLIGHT:
            yield queue.popleft()


@functools.cache
def _compiled_draw(mesh):
    def rows_of(arrays, batch):
        return {name: array[batch['row']] for name, array in arrays.items()}

    return parallel.sharded(rows_of, mesh, (False, True), True)


def _on_devices(data: PreparedData, mesh, masks: bool) -> dict:
    what = data.fingerprint, mesh, masks
    if what not in _resident:
        _resident.clear()  # before the next one takes its memory
        _resident[what] = parallel.keep(mesh, loader.whole_split(data, SPLIT, masks))
    return _resident[what]


def _fits(data: PreparedData, mesh, masks: bool, share: float) -> bool:
    if not share:
        return False
    needed = data.count(SPLIT) * data.size**2 * (data.bits // 8 + masks)
    limit = share * _memory(mesh)
    if needed > limit:
        print(
            f'The training images take {needed / 2**20:.0f} MiB, more than {100 * share:g} % of a '
            f"device's memory ({limit / 2**20:.0f} MiB): they are streamed."
        )
    # Devices' memories may differ a little from host to host.
    return all(hosts.gather(needed <= limit))


def _memory(mesh) -> int:
    """Bytes of one device's memory."""
    stats = mesh.local_devices[0].memory_stats()
    if stats:
        return stats['bytes_limit']
    # A CPU says nothing; its devices share what the machine has.
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // len(mesh.local_devices)
