"""Pooled features of every image of a corpus, and batch statistics of whole images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models.norm import MOMENTUM
from cxr_jax.runtime import hosts, parallel
from cxr_jax.views.geometry import resize
from data_pipelines.prepared import loader
from data_pipelines.prepared.corpus import Corpus


def corpus_features(
    encoder, mesh, part: dict, corpus: Corpus, image_size: int, batch_size: int
) -> np.ndarray:
    """[N, D] float32 in the corpus's order: whole images resized to `image_size`, without views.

    `part`: {'params', 'batch_stats'} of the encoder, which is in evaluation mode.
    """
    step = _compiled(encoder, mesh, image_size)
    weights = parallel.replicate(mesh, (part['params'], part['batch_stats']))
    shard, rows = (jax.process_index(), jax.process_count()), []
    masks = encoder.contract.needs_masks
    for batch in loader.eval_batches(corpus, batch_size, shard, masks):
        inputs = {name: batch[name] for name in ('image', *(('lung_mask',) if masks else ()))}
        found = parallel.own_rows_of(step(weights, parallel.put_rows(mesh, inputs)))
        rows.append(found[batch['valid']])
    # Each batch in the order of the processes, which hold consecutive parts of it.
    parts = [part for batch in zip(*hosts.gather(rows), strict=True) for part in batch]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def _compiled(encoder, mesh, image_size: int):
    def step(weights, batch):
        images = jax.vmap(lambda x: resize(x, image_size))(encoder.contract.images(batch))
        return encoder(*weights, images, train=False).pooled

    return parallel.sharded(step, mesh, (False, True), True)


def whole_image_statistics(
    encoder, mesh, part: dict, corpus: Corpus, image_size: int, batch_size: int
) -> dict:
    """Batch statistics of the encoder over whole images resized to `image_size`, without views.

    Means over all full batches of the corpus (Wu and Johnson 2021, arXiv:2105.07576, section 3.3,
    PreciseBN). What a stage leaves are running ones of its last views, which may be turned, cut,
    blurred or inverted; those of fresh weights are 0 and 1.
    """
    batch = min(batch_size, len(corpus) // mesh.size * mesh.size)
    step = _statistics_step(encoder, mesh, image_size)
    nothing = jax.tree.map(jnp.zeros_like, part['batch_stats'])
    weights = parallel.replicate(mesh, (part['params'], nothing))
    shard, masks = (jax.process_index(), jax.process_count()), encoder.contract.needs_masks
    full = corpus.take(np.arange(len(corpus) // batch * batch))
    total, batches = nothing, 0
    for found in loader.eval_batches(full, batch, shard, masks):
        inputs = {name: found[name] for name in ('image', *(('lung_mask',) if masks else ()))}
        total = jax.tree.map(jnp.add, total, step(weights, parallel.put_rows(mesh, inputs)))
        batches += 1
    # From statistics of 0, a step leaves the share 1 - MOMENTUM of those of its batch.
    share = batches * (1 - MOMENTUM)
    return jax.tree.map(lambda sums: np.asarray(sums / share, sums.dtype), jax.device_get(total))


@functools.lru_cache(maxsize=4)
def _statistics_step(encoder, mesh, image_size: int):
    def step(weights, batch):
        images = jax.vmap(lambda x: resize(x, image_size))(encoder.contract.images(batch))
        return encoder(*weights, images, train=True).batch_stats

    return parallel.sharded(step, mesh, (False, True), False)
