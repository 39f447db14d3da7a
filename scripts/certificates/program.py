"""cxr_jax.main with the network of the tests: python -m scripts.certificates.program FLAGS

The variable CERTIFY_FAULT names an entry of the TrainState's `extra` that is then left out of every
restored checkpoint: zeros stand in its place.
"""

import os

import jax
import numpy as np

from cxr_jax import main
from cxr_jax.runtime import command_line
from cxr_jax.store.checkpoint import Checkpoints
from tests import small_network

FAULT = 'CERTIFY_FAULT'


def leave_out(entry: str) -> None:
    """From now on `entry` is lost on resume."""
    restore = Checkpoints.restore

    def without(self, like):
        state = restore(self, like)
        if state is None or entry not in state.extra:
            return state
        nothing = jax.tree.map(np.zeros_like, state.extra[entry])
        return state.replace(extra=state.extra | {entry: nothing})

    Checkpoints.restore = without


if __name__ == '__main__':
    assert small_network.NAME  # imported for the encoder that it registers
    if os.environ.get(FAULT):
        leave_out(os.environ[FAULT])
    command_line.run(main.main, main.EXAMPLE, ('curriculum', 'readout', 'preset'))
