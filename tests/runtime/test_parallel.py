"""Arrays by image, sharded over the mesh, against plain indexing."""

import jax
import numpy as np
import pytest

from cxr_jax.runtime import parallel


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_rows_are_taken_and_put_wherever_they_lie(devices):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(parallel.ROWS, 3)).astype(np.float32)
    labels = rng.integers(0, 9, parallel.ROWS)
    rows = rng.permutation(parallel.ROWS)[:16].astype(np.int32)
    values = rng.normal(size=(16, 3)).astype(np.float32)

    def both(table, labels, rows, values):
        found = parallel.take(table, rows), parallel.take(labels, rows)
        new = parallel.put(table, rows, values), parallel.put(labels, rows, rows)
        return *found, *new, parallel.own_numbers(table)

    mesh = parallel.data_mesh(jax.devices()[:devices])
    on_mesh = parallel.sharded(both, mesh, True, True)
    found = on_mesh(table, labels, rows, values)
    changed, numbered = table.copy(), labels.copy()
    changed[rows], numbered[rows] = values, rows
    expected = table[rows], labels[rows], changed, numbered, np.arange(parallel.ROWS)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(('images', 'rows'), [(1, 512), (512, 512), (513, 1024)])
def test_padding_does_not_depend_on_the_devices(images, rows):
    assert parallel.padded(images) == rows


@pytest.mark.parametrize('devices', [1, 8])
def test_the_last_of_equal_rows_is_put(devices):
    rows = np.arange(16, dtype=np.int32) % 5 * 100
    mesh = parallel.data_mesh(jax.devices()[:devices])
    put = parallel.sharded(parallel.put, mesh, True, True)
    found = np.asarray(put(np.zeros(parallel.ROWS), rows, np.arange(16.0) + 1))
    assert found[::100].tolist() == [16, 12, 13, 14, 15, 0] and found.sum() == 70
