"""One, two, four and eight devices give the same training: the whole TrainState, for every task."""

import jax
import pytest

from cxr_jax.runtime import parallel
from tests import exactness


@pytest.mark.parametrize('devices', (2, 4, 8))
@pytest.mark.parametrize('case', exactness.CASES)
def test_any_number_of_devices_equals_one(case, devices):
    one = exactness.trained(case, 1)
    losses = [values for name, values in one.items() if "['loss']" in name]
    assert len(set(map(float, losses))) == exactness.STEPS
    exactness.assert_equal(exactness.trained(case, devices), one)


@pytest.mark.parametrize('case', exactness.CASES)
def test_no_gradient_scatters(case):
    """GPUs have no deterministic implementation of select-and-scatter, max-pooling's gradient."""
    mesh = parallel.data_mesh(jax.devices()[:1])
    with jax.enable_x64(True):
        step, state = exactness.compiled_step(case, mesh)
        batch = parallel.put_rows(mesh, next(exactness.batches()))
        text = step.trace(state, batch).lower(lowering_platforms=('cuda',)).as_text()
    assert 'stablehlo.dot_general' in text
    assert 'select_and_scatter' not in text
