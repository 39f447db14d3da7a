"""What the tasks share that compare two views of an image through a chain of heads."""

import jax
import jax.numpy as jnp

from cxr_jax.models.heads import unit_rows


def draw(key, image, size: int, first, second=None) -> dict:
    """{'first', 'second'}: two views [size, size, C], each by an Augmentation of its own."""
    first_key, second_key = jax.random.split(key)
    return {
        'first': first(first_key, image, size),
        'second': (second or first)(second_key, image, size),
    }


def init(key, heads: dict, inputs: int) -> tuple[dict, dict]:
    """-> (params, batch_stats) of {part: MLP}; each takes what the one before it gives."""
    params, batch_stats = {}, {}
    for own_key, (part, head) in zip(jax.random.split(key, len(heads)), heads.items(), strict=True):
        variables = head.init(own_key, jnp.zeros((2, inputs)))
        params[part] = variables['params']
        batch_stats[part] = variables.get('batch_stats', {})
        inputs = head.widths[-1]
    return params, batch_stats


def embed(encoder, heads: dict, params: dict, batch_stats: dict, images) -> tuple[dict, dict]:
    """One pass in training -> ({part: its output [b, D]}, new batch_stats of all parts)."""
    features = encoder(params['encoder'], batch_stats['encoder'], images)
    outputs, new, x = {}, batch_stats | {'encoder': features.batch_stats}, features.pooled
    for part, head in heads.items():
        variables = {'params': params[part], 'batch_stats': batch_stats[part]}
        x, updated = head.apply(variables, x, mutable=['batch_stats'])
        outputs[part], new[part] = x, updated.get('batch_stats', {})
    return outputs, new


def negative_cosine(prediction, target):
    """Mean over the rows [B, D] of -cos(prediction, target): scalar in [-1, 1]."""
    return -(unit_rows(prediction) * unit_rows(target)).sum(-1).mean()
