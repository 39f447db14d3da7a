"""Where a result comes from: versions, git state, devices."""

import importlib.metadata
import pathlib
import platform
import subprocess

import jax

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'pydicom')


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    found = {'python': platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def git_state() -> str:
    """Commit of this checkout, `+changes` if files differ from it; 'unknown' outside git."""
    folder = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        command = ['git', '-C', str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git('rev-parse', 'HEAD')
        return commit + ('+changes' if git('status', '--porcelain') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def devices() -> dict:
    """Kind and number of the devices of this run."""
    return {'kind': jax.devices()[0].device_kind, 'count': jax.device_count()}
