"""python -m tests.program cxr_jax.main FLAGS: a program that knows the tests' own network."""

import runpy
import sys

from tests import small_network

if __name__ == '__main__':
    assert small_network.NAME  # imported for the encoder that it registers
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
