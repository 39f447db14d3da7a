"""Sets to read from: see tests/small_sets.py."""

import pytest


@pytest.fixture(scope='session')
def sets(tmp_path_factory):
    """{name: PreparedSet} of tests.small_sets, in one data folder."""
    from data_pipelines.prepared.data import open_prepared
    from tests import small_sets

    folder = small_sets.prepare_all(tmp_path_factory.mktemp('sets'))
    return {name: open_prepared(folder, name, small_sets.SIZE) for name in 'abcf'}
