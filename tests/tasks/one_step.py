"""One step of a task outside the train loop: a tiny encoder, its state, loss and gradients."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models.encoder import Contract, Encoder, EncoderSettings
from cxr_jax.runtime import parallel
from cxr_jax.tasks.base import Facts
from tests.small_network import SmallNetwork

SIZE, BATCH = 24, 8
CONTRACT = Contract(size=SIZE, bits=8, channels=1, region='full', mean=0.5, std=0.25, fill=0.5)
NAMES = ('negative', 'typical', 'other')


class State(SimpleNamespace):
    """Fields of a TrainState."""

    def replace(self, **changes):
        return State(**(vars(self) | changes))


class TinyNetwork(SmallNetwork):
    """With 3 and 6 channels."""

    width: int = 3
    feature_width = 6


def tiny_encoder(network=None, contract=CONTRACT) -> Encoder:
    return Encoder(EncoderSettings(), network or TinyNetwork(), contract)


def facts(**changes) -> Facts:
    known = {
        'images': 64, 'batch_size': BATCH, 'steps_per_epoch': 8, 'total_steps': 16, 'devices': 1,
        'feature_width': TinyNetwork.feature_width, 'names': NAMES,
    }  # fmt: skip
    return Facts(**(known | changes))


def first_state(task, encoder, seed=0) -> SimpleNamespace:
    """As a TrainState at step 0."""

    def fresh():
        encoder_key, own_key = jax.random.split(jax.random.key(seed))
        params, stats = encoder.init(encoder_key, task.smallest_input)
        parts = {'encoder': {'params': params, 'batch_stats': stats}}
        own, own_stats, extra = task.init(own_key, encoder, parts)
        return {'encoder': params, **own}, {'encoder': stats, **own_stats}, extra

    params, batch_stats, extra = jax.jit(fresh)()
    return SimpleNamespace(params=params, batch_stats=batch_stats, extra=extra, step=0)


def random_batch(task, seed=0) -> dict:
    """Records with the fields that the task needs and no other."""
    rng = np.random.default_rng(seed)
    exclusive = getattr(task, 'exclusive', True)
    fields = {
        'label': rng.integers(0, 3, BATCH) if exclusive else rng.integers(-1, 2, (BATCH, 3)),
        'lung_mask': rng.integers(0, 2, (BATCH, SIZE, SIZE, 1)).astype(np.uint8),
        'row': np.arange(BATCH),
    }
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 1)).astype(np.uint8)
    return {'image': images} | {name: fields[name] for name in task.needs}


@functools.cache
def compiled_loss(task, encoder, devices: int = 1):
    """Compiled (params, other fields of the state, views [B, ...]) -> ((loss, gradients,
    batch_stats, extra, metrics), embeddings)."""

    def step(params, state, views):
        def loss_function(params):
            whole = State(params=params, **state)
            loss, aux = task.loss(encoder, params, whole, views, jax.random.key(7))
            return parallel.mean(loss), aux

        (loss, aux), gradients = jax.value_and_grad(loss_function, has_aux=True)(params)
        replicated = loss, gradients, aux.batch_stats, aux.extra, parallel.mean(aux.metrics)
        return replicated, aux.embeddings

    mesh = parallel.data_mesh(jax.devices()[:devices])

    def on_mesh(params, state, views):
        extra = by_image(task, state['extra'])
        rest = {name: extra if name == 'extra' else False for name in state}
        replicated = False, False, False, extra, False
        mapped = parallel.sharded(step, mesh, (False, rest, True), (replicated, True))
        return mapped(params, state, views)

    return jax.jit(on_mesh)


def by_image(task, extra) -> dict:
    """Which entries of `extra` are spread over the mesh."""
    return {name: name in task.by_image for name in extra}


def run_loss(task, encoder, state, views: dict, devices: int = 1) -> SimpleNamespace:
    """loss, gradients, batch_stats, extra, metrics and embeddings of views [B, ...]."""
    rest = {name: value for name, value in vars(state).items() if name != 'params'}
    results = compiled_loss(task, encoder, devices)(state.params, rest, views)
    replicated, embeddings = jax.device_get(results)
    names = ('loss', 'gradients', 'batch_stats', 'extra', 'metrics')
    return SimpleNamespace(**dict(zip(names, replicated, strict=True)), embeddings=embeddings)


def abstract_after_update(task, state) -> tuple:
    """Shapes of the parameters and the extra that Task.after_update makes of the state's."""
    spread = False, by_image(task, state.extra)
    mesh = parallel.data_mesh(jax.devices()[:1])
    changed = parallel.sharded(lambda *both: task.after_update(*both, 0), mesh, spread, spread)
    return jax.eval_shape(changed, state.params, state.extra)


def make_views(task, batch: dict) -> dict:
    """The task's views of every row."""
    keys = jax.random.split(jax.random.key(3), len(batch['image']))
    example = batch | {'image': CONTRACT.images({'image': jnp.asarray(batch['image'])})}
    return jax.jit(jax.vmap(task.views))(keys, example)
