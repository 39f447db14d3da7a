"""The compiled programs of former runs, kept on disk: the same program is compiled once."""

import hashlib
import os
import pathlib
import platform

import jax

MIN_COMPILE_SECONDS = 0.5


def use_cache() -> None:
    """Keeps compiled programs in <user cache>/cxr_jax, unless JAX_COMPILATION_CACHE_DIR says where.

    A folder of its own for every kind of processor: code for one may not run on another.
    """
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return
    home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    folder = pathlib.Path(home, 'cxr_jax', f'{platform.machine()}-{_processor()}')
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', MIN_COMPILE_SECONDS)


def _processor() -> str:
    """Hash of what the processor is and can do."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        described = sorted({line for line in lines if line.startswith(('model name', 'flags'))})
    except OSError:
        described = [platform.processor()]
    return hashlib.sha256('\n'.join(described).encode()).hexdigest()[:12]
