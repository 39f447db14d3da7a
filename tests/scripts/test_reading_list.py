"""The reading list: chains of imports over made-up files, lines by kind, and the list itself."""

import re

import pytest

from scripts import reading_list
from scripts.reading_list import ROOT, chain, closure, imports, main, read

FILE = '''"""Title of the file.

More of it.
"""

import json  # not a line of text

# A comment
# of two lines


def function(x):
    """One line."""
    # Another comment.
    text = """neither a docstring

    nor a comment"""
    return x + 1, text
'''


def write(root, **files):
    for name, text in files.items():
        path = root / f'cxr_jax/{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_lines_are_told_apart(tmp_path):
    """Counted by hand: code is import, def, text (its blank line is blank to a reader), return."""
    write(tmp_path, file=FILE)
    source = read('cxr_jax.file', tmp_path)
    assert (source.title, source.path) == ('Title of the file.', 'cxr_jax/file.py')
    assert (source.lines, source.text, source.code) == (18, 4 + 2 + 1 + 1, 5)


def test_the_shortest_chain_wins_and_what_lies_between_is_on_it(tmp_path):
    write(
        tmp_path,
        a='from cxr_jax import b\nfrom cxr_jax.e import thing\nimport numpy',
        b='from cxr_jax import c',
        c='from cxr_jax import d',
        d='',
        e='def f():\n    from cxr_jax.d import g',
        lone='import cxr_jax.a',
    )
    assert imports('cxr_jax.a', tmp_path) == ('cxr_jax.b', 'cxr_jax.e')
    assert chain(['cxr_jax.a'], 'cxr_jax.d', tmp_path) == ['cxr_jax.e', 'cxr_jax.d']
    # From what is listed already: c is nearer than a.
    assert chain(['cxr_jax.a', 'cxr_jax.c'], 'cxr_jax.d', tmp_path) == ['cxr_jax.d']
    assert closure(['cxr_jax.b'], tmp_path) == ['cxr_jax.b', 'cxr_jax.c', 'cxr_jax.d']
    with pytest.raises(ValueError, match='leads to cxr_jax.lone'):
        chain(['cxr_jax.a'], 'cxr_jax.lone', tmp_path)


def test_the_list_follows_a_stage_from_the_curriculum_to_its_gradient(capsys):
    """Each file of it is imported by one before it, but for the first and the task's two."""
    chosen = reading_list.reading_list('rot')
    places = [chosen.index(f'cxr_jax.{name}') for name in (
        'run.curriculum', 'run.stage', 'train.loop', 'train.step', 'tasks.rot', 'models.encoder',
        'evaluation.predict',
    )]  # fmt: skip
    assert places == sorted(places) and len(chosen) == len(set(chosen))
    for number, module in enumerate(chosen[1:], 1):
        if module != 'cxr_jax.tasks.rot':
            assert any(module in imports(other) for other in chosen[:number]), module
    assert main(['--task', 'rot']) == 0
    out = capsys.readouterr().out
    rows = re.findall(r'^ *([\d,]+) +([\d,]+) +([\d,]+)  (\S+\.py) ', out, re.MULTILINE)
    assert [row[3] for row in rows] == [f'{name.replace(".", "/")}.py' for name in chosen]
    lines = sum(len((ROOT / row[3]).read_text().splitlines()) for row in rows)
    (total,) = re.findall(r'^ *([\d,]+) +([\d,]+) +([\d,]+)  (\d+) files$', out, re.MULTILINE)
    assert int(total[0].replace(',', '')) == lines
    assert int(total[1].replace(',', '')) == sum(int(row[1].replace(',', '')) for row in rows)
    assert int(total[3]) == len(rows)


def test_one_run_stays_readable():
    sources = [read(module) for module in reading_list.reading_list('rot')]
    assert len(sources) <= 11 and sum(source.code for source in sources) < 1150
