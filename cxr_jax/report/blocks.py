"""What a page is made of: a page is a function of results that returns a list of these blocks.

A renderer for each medium (markdown.py, console.py) turns them into text. Wherever a block holds
text, *emphasis*, **strong** and `code` may mark a part of it, and a backslash takes the meaning of
the next character away. What comes from data goes through `literal` first.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a file."""

    text: str
    file: str  # relative to the page, not quoted


Cell = str | Link


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list; one with a title is long and may be folded under it."""

    texts: tuple[str, ...]
    title: str = ''


@dataclass(frozen=True)
class Table:
    """The first column stands to the left, the others to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ''
    remarks: tuple[str, ...] = ()  # told below: why numbers are missing or restricted
    short: 'Table | None' = None  # instead of this one where there is little room


@dataclass(frozen=True)
class Picture:
    """A picture beside the page; `text` says what it shows."""

    file: str
    text: str


@dataclass(frozen=True)
class Cautions:
    """What a reader must know before believing a number."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines to be shown as they are, such as a command."""

    text: str


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; the page's own has level 1."""

    title: str
    blocks: tuple['Block', ...]
    level: int = 2


Block = Text | Items | Table | Picture | Cautions | Code | Section


class Piece(NamedTuple):
    """A part of a text and how it is marked: '', 'emphasis', 'strong' or 'code'."""

    style: str
    text: str


_MARKED = re.compile(
    r'\\(?P<plain>[\\*`])'
    r'|`(?P<code>[^`]+)`'
    r'|\*\*(?P<strong>(?:\\.|[^\\*])+)\*\*'
    r'|\*(?P<emphasis>(?:\\.|[^\\*])+)\*'
)


def literal(text: object) -> str:
    """The text as data, in which nothing marks anything."""
    return re.sub(r'([\\*`])', r'\\\1', str(text))


def code(text: object) -> str:
    """The text marked as code; in code a backquote cannot be shown, and becomes a quote."""
    return '`' + (str(text).replace('`', "'") or ' ') + '`'


def pieces(text: str) -> Iterator[Piece]:
    """The parts of a marked text in order; marks that do not end are plain text."""
    end = 0
    for found in _MARKED.finditer(text):
        if found.start() > end:
            yield Piece('', text[end : found.start()])
        style = found.lastgroup
        inner = found.group(style)
        if style in ('strong', 'emphasis'):
            inner = re.sub(r'\\([\\*`])', r'\1', inner)
        yield Piece('' if style == 'plain' else style, inner)
        end = found.end()
    if end < len(text):
        yield Piece('', text[end:])


def plain_text(text: str) -> str:
    """The text without its marks."""
    return ''.join(piece.text for piece in pieces(text))


def table(
    header: list[str], rows: list[list[Cell]], title: str = '', remarks: tuple[str, ...] = (),
    short: Table | None = None,
) -> Table:  # fmt: skip
    """A Table of lists."""
    return Table(tuple(header), tuple(tuple(row) for row in rows), title, tuple(remarks), short)
