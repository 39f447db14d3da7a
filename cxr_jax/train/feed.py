"""Batches on the devices: streamed from the loader, or drawn from the images that live there."""

import collections
import functools
import os

import jax

from cxr_jax.runtime import hosts, parallel
from cxr_jax.train.stage import Labelled
from data_pipelines.prepared import loader
from data_pipelines.prepared.sampler import Sampler

IN_FLIGHT = 2  # batches on their way to the devices
_resident: dict[tuple, dict] = {}  # one corpus at most: the stages of a curriculum share it


def fields_of(encoder, task) -> tuple[str, ...]:
    """The fields of a record that a stage reads: pixels, masks of the region, the task's needs."""
    masks = ('lung_mask',) if encoder.contract.needs_masks else ()
    return tuple(dict.fromkeys(('image', *masks, *task.needs)))


def batches(data: Labelled, sampler: Sampler, start: int, mesh, fields: tuple, share: float):
    """Endless training batches from number `start`, sharded over the mesh; as loader.train_batches.

    `share`: the images live on the devices if they take at most this share of a device's memory;
    the batches are the same then, bit for bit.
    """
    shard = (jax.process_index(), jax.process_count())
    stored = _on_devices(data, mesh, fields) if _fits(data, mesh, fields, share) else None
    if stored is None:
        _resident.clear()
        read = loader.train_batches(data.corpus, sampler, start, shard, fields, data.labels)
        made = (parallel.put_rows(mesh, batch) for batch in read)
    else:
        draw, rows = _compiled_draw(mesh), loader.train_rows(sampler, start, shard)
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


def _on_devices(data: Labelled, mesh, fields: tuple) -> dict:
    labels = () if data.labels is None else (data.labels.tobytes(),)
    what = data.corpus.fingerprint, mesh, fields, labels
    if what not in _resident:
        _resident.clear()  # before the next one takes its memory
        arrays = loader.whole(data.corpus, fields, data.labels)
        _resident[what] = parallel.keep(mesh, arrays)
    return _resident[what]


def _fits(data: Labelled, mesh, fields: tuple, share: float) -> bool:
    if not share:
        return False
    corpus = data.corpus
    bytes_of_pixel = corpus.channels * corpus.bits // 8 + ('lung_mask' in fields)
    needed = len(corpus) * corpus.size**2 * bytes_of_pixel
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
