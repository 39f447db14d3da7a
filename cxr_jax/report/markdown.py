"""Blocks as Markdown (GitHub's). All text is escaped: no data can mark, link or bring HTML in."""

import html
import re
from collections.abc import Iterable
from urllib.parse import quote

from cxr_jax.report.blocks import (
    Block,
    Cautions,
    Cell,
    Code,
    Items,
    Link,
    Picture,
    Section,
    Table,
    Text,
    pieces,
)

_MARKS = {'': '', 'emphasis': '*', 'strong': '**'}
# What would begin a tag or an entity of HTML; alone, < and & are what they look like.
_HTML = re.compile(r'<(?=[A-Za-z/!?])|&(?=#?\w+;)')
# Brackets would make links, dollars formulas; an underscore inside a word does nothing.
_ACTIVE = re.compile(r'[\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_])')
_FIRST = re.compile(r'^(#{1,6} |[-+>] |\d+[.)] |=+$|-+$)')


def to_markdown(title: str, blocks: Iterable[Block]) -> str:
    """The page; `title` is marked text as in a block."""
    return _section(Section(title, tuple(blocks), level=1)) + '\n'


def inline(text: str) -> str:
    """Marked text in one line of Markdown."""
    return ''.join(_piece(*piece) for piece in pieces(text.replace('\n', ' ')))


def _piece(style: str, text: str) -> str:
    if style == 'code':
        return f'`{text}`'
    mark = _MARKS[style]
    escaped = _HTML.sub(lambda found: html.escape(found[0]), text)
    return mark + _ACTIVE.sub(r'\\\g<0>', escaped) + mark


def _paragraph(text: str) -> str:
    """One that does not begin like a list, a heading or a quotation."""
    return _FIRST.sub(r'\\\1', inline(text))


def _render(block: Block) -> str:
    match block:
        case Text(text):
            return _paragraph(text)
        case Items(texts, title):
            lines = '\n'.join(f'- {inline(text)}' for text in texts)
            if not title:
                return lines
            return f'<details>\n<summary>{inline(title)}</summary>\n\n{lines}\n\n</details>'
        case Table():
            return _table(block)
        case Picture(file, text):
            return f'![{inline(text)}]({quote(file)})'
        case Cautions(texts):
            found = [f'> - {inline(text)}' for text in texts]
            return '\n'.join(['> **Read this first**', '>', *found]) if found else ''
        case Code(text):
            fence = '`' * max(3, *(len(run) + 1 for run in re.findall('`+', text)), 3)
            return f'{fence}\n{text}\n{fence}'
        case Section():
            return _section(block)
    raise TypeError(f'{block!r} is not a block')


def _section(section: Section) -> str:
    parts = [f'{"#" * section.level} {inline(section.title)}', *map(_render, section.blocks)]
    return '\n\n'.join(part for part in parts if part)


def _table(table: Table) -> str:
    lines = [table.header, ['---'] + ['---:'] * (len(table.header) - 1), *table.rows]
    text = '\n'.join('| ' + ' | '.join(map(_cell, line)) + ' |' for line in lines)
    parts = [f'**{inline(table.title)}**' if table.title else '', text]
    parts.append('\n'.join(f'- {inline(remark)}' for remark in table.remarks))
    return '\n\n'.join(part for part in parts if part)


def _cell(cell: Cell) -> str:
    is_link = isinstance(cell, Link)
    text = f'[{inline(cell.text)}]({quote(cell.file)})' if is_link else inline(cell)
    return text.replace('|', '\\|')
