"""Imports point one way, nothing imports TensorFlow or PyTorch, files and functions stay small."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('cxr_jax', 'data_pipelines', 'configs', 'scripts')
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob('*.py'))
# Modules and packages of cxr_jax from top to bottom. A module imports from lower lines only, a
# package also from itself; tasks know of the models no more than the heads.
LAYERS = """
segment study main
command_line finished
curriculum
plan report
stage segmenter workdir
lr_search
validation trials_together
training evaluate seed_means
feed
train_step checkpoint progress comparison
inspection
state
tasks
views models optim attention metrics overlap
parallel provenance interrupt bootstrap compilation stage_store hosts
claim embedded memory
files
"""
OTHER_FRAMEWORKS = ('tensorflow', 'torch', 'torchvision')
# One reads its files, two measure against it.
USE_PYTORCH = ('convert_lungvae.py', 'step.py', 'torch_resnet.py')
ABOVE_THE_DATA = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'cxr_jax', 'configs')
LEVEL = {
    name: -line for line, names in enumerate(LAYERS.strip().splitlines()) for name in names.split()
}


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
        if package == 'configs' and root == 'cxr_jax':
            assert rest[0] == 'tasks', name
        if package == 'cxr_jax':
            assert root != 'configs', name
        if package == 'cxr_jax' and root == 'cxr_jax' and own != '__init__':
            assert LEVEL[rest[0]] < LEVEL[own] or (rest[0] == own and path.parent.name == own), name
            assert own != 'tasks' or rest[0] != 'models' or rest[1] == 'heads', name


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
