"""What the first stage of a run starts from."""

import dataclasses
import functools
import pathlib

import jax

from cxr_jax.models.encoder import Contract, Encoder
from cxr_jax.models.torch_names import load_weights
from cxr_jax.run.plan import Branch, Plan
from cxr_jax.store.bundle import fit, read_parts
from cxr_jax.train.stage import stage_seed


def initial_parts(plan: Plan, branch: Branch) -> dict:
    """{part: {'params', 'batch_stats'}} that the first stage starts from."""
    settings, first = plan.settings.run, branch.stages[0]
    return starting_parts(
        branch.encoder, settings.encoder.weights, settings.seed, first.task.image_size
    )


def starting_parts(encoder: Encoder, weights: str, seed: int, size: int) -> dict:
    """A fresh encoder, one with published weights, or the parts of a finished stage."""
    if not weights:
        # What the network sees does not change what it starts as: folds share it.
        anything = Contract(None, None, encoder.contract.channels, 'full', 0.0, 1.0, 0.0)
        return _fresh(dataclasses.replace(encoder, contract=anything), seed, size)
    params, batch_stats = jax.eval_shape(lambda: encoder.init(jax.random.key(0), size))
    like = {'params': params, 'batch_stats': batch_stats}
    if pathlib.Path(weights).is_dir():
        parts = read_parts(pathlib.Path(weights))
        return parts | {'encoder': fit(parts['encoder'], like, f'encoder of {weights}')}
    params, batch_stats = load_weights(weights, params, batch_stats)
    return {'encoder': {'params': params, 'batch_stats': batch_stats}}


@functools.lru_cache(maxsize=4)
def _fresh(encoder: Encoder, seed: int, size: int) -> dict:
    """Compiled and computed once for all runs of a study and all folds of a run."""
    # The name is older than the parts': another would draw other weights.
    key = jax.random.key(stage_seed(seed, 'backbone'))
    params, batch_stats = jax.device_get(jax.jit(encoder.init, static_argnums=1)(key, size))
    return {'encoder': {'params': params, 'batch_stats': batch_stats}}
