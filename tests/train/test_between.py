"""What a task does on the host at the border of an epoch, for one state or for several together."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.runtime import parallel
from cxr_jax.tasks.base import Task
from cxr_jax.train import loop
from cxr_jax.train import state as states
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Marking(Task):
    """Writes the epoch and the features into a memory of every image."""

    by_image = ('memory',)

    def between(self, state, epoch, features_of):
        memory = np.array(state.extra['memory'])
        memory[:3] = epoch + features_of()
        return state.replace(extra={'memory': memory})


def state_of(weight):
    part = {'encoder': {'weight': jnp.asarray(weight)}}
    memory = jnp.zeros((parallel.ROWS, 2))
    zero = jnp.zeros((), jnp.int32)
    return states.TrainState(zero, part, {'encoder': {}}, (), {'memory': memory}, zero, zero)


def features(encoder, mesh, part, *_):
    return part['params']['weight'] * np.ones((3, 2))


@pytest.mark.parametrize('weights', [[5.0], [5.0, 7.0]])
def test_each_state_gets_features_of_its_own_encoder(weights, monkeypatch):
    monkeypatch.setattr(loop, 'corpus_features', features)
    stage = SimpleNamespace(
        task=Marking(), trained_task=Marking(), encoder=None,
        train=SimpleNamespace(corpus=None, labels=None), facts=SimpleNamespace(batch_size=8),
    )  # fmt: skip
    together = len(weights) > 1
    training = SimpleNamespace(
        first=stage, stages=[stage] * len(weights), together=together,
        program=SimpleNamespace(mesh=tiny.one_device()),
    )  # fmt: skip
    own = [state_of(weight) for weight in weights]
    found = loop._between(training, states.stack(own) if together else own[0], 10)
    for i, weight in enumerate(weights):
        memory = np.asarray((states.unstack(found, i) if together else found).extra['memory'])
        assert (memory[:3] == 10 + weight).all() and not memory[3:].any()
