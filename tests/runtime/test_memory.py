"""What is freed stays with the process, and is not cleared page by page when it is used again."""

import ctypes
import importlib.metadata
import subprocess
import sys
import types

import pytest

from cxr_jax.runtime import allocator

SCRIPT = """
import ctypes, resource, sys
from cxr_jax.runtime import allocator
print(allocator.keep_freed_memory() if {kept} else None)
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(library.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, second = (faults(2**26) for _ in range(2))
print(first, second)
"""

glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), 'gnu_get_libc_version'), reason='needs glibc'
)


def run(kept: bool):
    command = [sys.executable, '-c', SCRIPT.format(kept=kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer, first, second = done.stdout.split()
    return answer, int(first), int(second)


@glibc
def test_freed_memory_is_used_again():
    """64 MiB: 32 pages of 2 MiB at least, 16384 of 4 KiB at most."""
    answer, first, second = run(kept=True)
    assert answer == 'True'
    assert first >= 32 and second < first / 8
    _, first, second = run(kept=False)
    assert second >= first / 2


def test_nothing_happens_on_another_system(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    monkeypatch.setattr(ctypes, 'CDLL', None)
    assert not allocator.keep_freed_memory()


def test_nothing_happens_where_an_accelerator_may_be_used(monkeypatch):
    monkeypatch.setattr(ctypes, 'CDLL', None)
    monkeypatch.setattr(allocator.jax, 'config', types.SimpleNamespace(jax_platforms='cuda,cpu'))
    assert not allocator.keep_freed_memory()
    allocator.jax.config.jax_platforms = None
    monkeypatch.setattr(importlib.metadata, 'entry_points', lambda group: ['cuda plugin'])
    assert not allocator.keep_freed_memory()


def test_nothing_happens_with_another_c_library(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: object())
    assert not allocator.keep_freed_memory()
