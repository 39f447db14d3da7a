"""Pooled features of every image of a corpus, from an encoder that does not change."""

import functools

import jax
import numpy as np

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
