import jax
import pytest

from cxr_jax.runtime import compilation


@pytest.fixture
def updates(monkeypatch):
    found = {}
    monkeypatch.setattr(jax.config, 'update', found.__setitem__)
    return found


def test_the_cache_lies_in_a_folder_of_the_user_and_processor(updates, monkeypatch, tmp_path):
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    compilation.use_cache()
    first = updates['jax_compilation_cache_dir']
    assert first.startswith(f'{tmp_path}/cxr_jax/')
    monkeypatch.setattr(compilation, '_processor', lambda: 'another')
    compilation.use_cache()
    assert updates['jax_compilation_cache_dir'] != first


def test_a_folder_that_was_named_stays(updates, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'mine')
    compilation.use_cache()
    assert not updates
