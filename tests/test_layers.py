"""Imports point one way, nothing imports TensorFlow or PyTorch, files and functions stay small."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('cxr_jax', 'data_pipelines', 'configs', 'scripts')
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob('*.py'))
# Folders from the lowest to the highest: a file imports from its own folder and from those before.
LAYERS = (
    'store', 'runtime', 'views', 'models', 'tasks', 'evaluation', 'train', 'report', 'run', 'study',
)  # fmt: skip
DATA_LAYERS = (
    'errors', 'files', 'progress', 'storage', 'raw', 'datasets', 'prepared', 'auditing',
    'preparing', 'synthetic', 'prepare', 'audit',
)  # fmt: skip
PROGRAMS = ('main', 'segment', 'checkpoint')  # on top; nothing imports them
OTHER_FRAMEWORKS = ('tensorflow', 'torch', 'torchvision')
# One reads its files, two measure against it.
USE_PYTORCH = ('convert_lungvae.py', 'step.py', 'torch_resnet.py')
ABOVE_THE_DATA = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'cxr_jax', 'configs')


def imports(path):
    """Dotted names of everything that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path} imports relatively'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package, own = path.relative_to(ROOT).with_suffix('').parts[:2]
    for name in imports(path):
        root, *rest = name.split('.')
        assert root not in OTHER_FRAMEWORKS or path.name in USE_PYTORCH, name
        if package == 'data_pipelines':
            assert root not in ABOVE_THE_DATA, name
            if root == package and own != '__init__':
                assert DATA_LAYERS.index(rest[0]) <= DATA_LAYERS.index(own), name
        if package == 'configs' and root == 'cxr_jax':
            assert rest[0] in ('tasks', 'run', 'study'), name
        if package == 'cxr_jax':
            assert root != 'configs', name
        if root == package == 'cxr_jax' and own != '__init__':
            assert rest[0] in LAYERS, f'{name} is a program'
            assert own in PROGRAMS or LAYERS.index(rest[0]) <= LAYERS.index(own), name


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    """A function's lines are counted without its docstring."""
    assert len(path.read_text().splitlines()) < 300
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = len((ast.get_docstring(node, clean=False) or '').splitlines())
            assert node.end_lineno - node.lineno + 1 - documented < 60, node.name


def test_neither_tensorflow_nor_torch_is_loaded(tmp_path):
    """An empty `tensorflow` can be imported here, and is not; `torch` cannot, and is not needed.

    (tensorboardX would load an installed PyTorch.)
    """
    (tmp_path / 'tensorflow.py').write_text('')
    script = (
        f'import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules["torch"] = None; '
        'import cxr_jax.main, data_pipelines.prepare; sys.exit("tensorflow" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
