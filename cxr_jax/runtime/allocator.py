"""The process's allocator, set so that what one step gives back is there for the next.

XLA's CPU backend takes a step's buffers from malloc and frees them at its end. By default glibc
returns such large blocks to the system, which then clears every page again at its first touch:
up to a third of a train step.
"""

import ctypes
import importlib.metadata
import importlib.util
import sys

import jax

# mallopt's parameters, from malloc.h, and their values: one heap instead of one per thread, no
# block outside it, and its end never given back.
SETTINGS = {'M_ARENA_MAX': (-8, 1), 'M_MMAP_MAX': (-4, 0), 'M_TRIM_THRESHOLD': (-1, -1)}


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for this process, if JAX computes on CPU; whether it does.

    To be called before JAX starts its backend, whose threads would have heaps of their own. Costs:
    the process stays as large as its largest step, and what it frees is of use to no other. Where
    an accelerator may be used, and elsewhere than on Linux with glibc, nothing happens.
    """
    if not sys.platform.startswith('linux') or not _only_cpu():
        return False
    library = ctypes.CDLL(None)
    # Other C libraries have no mallopt, or one that does nothing.
    if not (hasattr(library, 'gnu_get_libc_version') and hasattr(library, 'mallopt')):
        return False
    return all([library.mallopt(*setting) for setting in SETTINGS.values()])


def _only_cpu() -> bool:
    """Whether JAX can but use the CPU, as far as can be told before its backend has started."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == 'cpu'
    accelerators = importlib.metadata.entry_points(group='jax_plugins')
    found = [importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu')]
    return not accelerators and not any(found)
