"""Every warning of NumPy's is an error here."""

import warnings

import pytest


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield
