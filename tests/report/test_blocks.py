"""Blocks as Markdown and on a console: what data cannot do, what always holds."""

import html
import re

import pytest

from cxr_jax.report.blocks import (
    Cautions,
    Code,
    Items,
    Link,
    Picture,
    Section,
    Text,
    code,
    literal,
    pieces,
    plain_text,
    table,
)
from cxr_jax.report.console import to_console
from cxr_jax.report.markdown import inline, to_markdown

NASTY = ['a|b', '<script>x</script>', '*a*', '**b**', '`c`', '[x](http://y)', '![x](y)', '\\',
         '\\*', '_a_', 'a & b', '1 < 2 > 0', '~~a~~', '&lt;', '#', 'a_b', 'x*y*z', 'line\nline',
         '$x$']  # fmt: skip


def unescaped(text):
    """What a reader of Markdown sees of text without marks."""
    return re.sub(r'\\([!-/:-@[-`{-~])', r'\1', html.unescape(text))


def test_marks_are_found_and_data_have_none():
    found = list(pieces('a *b* **c** `d*` \\*e\\* 2 * 3'))
    assert [(p.style, p.text) for p in found if p.text.strip()] == [
        ('', 'a '), ('emphasis', 'b'), ('strong', 'c'), ('code', 'd*'), ('', '*'), ('', 'e'),
        ('', '*'), ('', ' 2 * 3'),
    ]  # fmt: skip
    for text in NASTY:
        assert all(piece.style == '' for piece in pieces(literal(text)))
        assert plain_text(literal(text)) == text
        assert plain_text(f'**{literal(text)}**') == text
        assert [p.style for p in pieces(f'*{literal(text)}*')] == ['emphasis']
    assert [(p.style, p.text) for p in pieces(code('a`b'))] == [('code', "a'b")]


@pytest.mark.parametrize('text', NASTY)
def test_data_mean_nothing_in_markdown(text):
    found = inline(literal(text))
    assert unescaped(found) == text.replace('\n', ' ')
    assert not re.search('<[a-z/]|&[a-z]+;', found.replace('&lt;', '').replace('&amp;', ''))
    assert not re.search(r'(?<!\\)[`*\[\]~$]', found)


@pytest.mark.parametrize('text', NASTY)
def test_a_table_keeps_its_cells_whatever_is_in_them(text):
    made = table(
        ['name', text], [[literal(text), '1'], ['**2**', Link('report', 'a b/c|d(e).md')]],
        title='T', remarks=(literal(text),),
    )  # fmt: skip
    page = to_markdown('x', [made])
    lines = [line for line in page.splitlines() if line.startswith('| ')]
    cells = [re.split(r'(?<!\\)\|', line)[1:-1] for line in lines]
    assert [len(row) for row in cells] == [2, 2, 2, 2]
    seen = unescaped(cells[2][0].strip()).replace('\\|', '|')
    assert seen == text.replace('\n', ' ').strip()
    assert cells[1] == [' --- ', ' ---: ']
    assert cells[3] == [' **2** ', ' [report](a%20b/c%7Cd%28e%29.md) ']
    assert '**T**' in page and f'- {inline(literal(text))}' in page


@pytest.mark.parametrize('text', ['# a', '- a', '1. a', '> a', '---', '===', '+ a'])
def test_a_paragraph_does_not_start_another_block(text):
    line = to_markdown('x', [Text(text)]).splitlines()[-1]
    assert line == '\\' + text


def test_a_page_in_markdown():
    page = to_markdown('a **b**', [
        Cautions(()), Cautions(('one', 'two')),
        Section('S', (Text('p'), Section('T', (Code('x ```` y'),), level=3))),
        Picture('a b.png', 'what | it'), Items(('i', 'j')), Items(('k',), title='more'),
    ])  # fmt: skip
    assert page == (
        '# a **b**\n\n> **Read this first**\n>\n> - one\n> - two\n\n## S\n\np\n\n### T\n\n'
        '`````\nx ```` y\n`````\n\n![what | it](a%20b.png)\n\n- i\n- j\n\n'
        '<details>\n<summary>more</summary>\n\n- k\n\n</details>\n'
    )


def test_the_console_is_narrow_ascii():
    names = [f'a class of a quite long name → {i}' for i in range(3)]
    wide = table(
        ['class', *names], [[name, *('12.3 % (10.1 to 14.5 %)' for _ in names)] for name in names],
        remarks=('a long remark ' * 12,),
    )  # fmt: skip
    text = to_console([
        Text('word ' * 50), wide, Cautions(('caution ' * 30,)), Items(('item ' * 40,), title='T'),
        Section('Ü', (Picture('a.png', 'b'), Code('x → y'))),
    ])  # fmt: skip
    assert text.isascii() and max(map(len, text.splitlines())) < 100
    assert '->' in text and '?\n\nb: a.png\n\nx -> y' in text
    assert text.count('! caution') == 1 and '\n  item' in text


def test_a_table_too_wide_for_the_console_continues_below_with_its_first_column():
    header = ['row', *(f'column number {i}' for i in range(9))]
    rows = [[f'row {r}', *(f'{r}{i}' for i in range(9))] for r in range(3)]
    parts = to_console([table(header, rows)]).split('\n\n')
    assert len(parts) == 2
    seen = []
    for part in parts:
        lines = part.splitlines()
        assert set(lines[1]) == {'-'} and len({len(line) for line in lines}) == 1
        assert [line.split()[1] for line in lines[2:]] == ['0', '1', '2']
        seen += lines[3].split()[2:]
    assert seen == rows[1][1:]


def test_a_table_may_have_a_shorter_form_for_the_console():
    made = table(['a', 'b'], [['x', 'long']], short=table(['a'], [['*x*']]))
    assert to_console([made]) == 'a\n-\nx'
    assert 'long' in to_markdown('t', [made])


def test_a_first_column_is_cut_only_where_room_is_missing():
    long = 'x' * 60
    assert long in to_console([table(['reason', 'n'], [[long, '1']])])
    tight = to_console([table(['reason', 'n'], [[long, 'y' * 39]] * 2)])
    assert 'x' * 55 + '..' in tight and max(map(len, tight.splitlines())) == 98
