"""What the tasks share that see an image in crops of several sizes."""

import jax
import jax.numpy as jnp


def draw(key, image, kinds: dict) -> dict:
    """{kind: (n, s, Augmentation)} -> {kind: crops [n, s, s, C]}; without kinds of no crops."""
    keys = iter(jax.random.split(key, sum(count for count, _, _ in kinds.values())))
    return {
        kind: jnp.stack([augment(next(keys), image, size) for _ in range(count)])
        for kind, (count, size, augment) in kinds.items()
        if count
    }


def embed(encoder, projector, params: dict, batch_stats: dict, views: dict) -> tuple:
    """Projected crops [crops, b, D], kind after kind, and new batch_stats of both parts.

    One pass of the encoder for each kind of views {kind: [b, n, s, s, C]}, so batch statistics are
    those of crops of one size, and one of the projector over all crops, as in the official SwAV.
    """
    # The statistics pass from kind to kind: each moves the running ones a step further.
    stats, pooled, rows = batch_stats['encoder'], [], len(next(iter(views.values())))
    for crops in views.values():
        # Crop after crop, not image after image: views of one crop stay together.
        images = jnp.swapaxes(crops, 0, 1).reshape(-1, *crops.shape[2:])
        features = encoder(params['encoder'], stats, images)
        stats = features.batch_stats
        pooled.append(features.pooled)
    variables = {'params': params['projector'], 'batch_stats': batch_stats['projector']}
    projected, updated = projector.apply(
        variables, jnp.concatenate(pooled), mutable=['batch_stats']
    )
    new = {'encoder': stats, 'projector': updated['batch_stats']}
    return projected.reshape(-1, rows, projected.shape[-1]), new
