"""Blocks as text of less than 100 columns for a console, in plain ASCII."""

import textwrap
from collections.abc import Iterable, Sequence

from cxr_jax.report.blocks import (
    Block,
    Cautions,
    Code,
    Items,
    Link,
    Picture,
    Section,
    Table,
    Text,
    plain_text,
)

WIDTH = 98
_LEAST = 18  # letters that a first column keeps where the table is too wide
_FIRST = 34  # most letters of it in a table of several parts
_OTHER = 40  # of any other column
_ASCII = str.maketrans({
    '→': '->', '−': '-', '–': '-', '×': 'x', '·': '-', '…': '..', '≥': '>=', '≤': '<=', '’': "'",
})  # fmt: skip


def to_console(blocks: Iterable[Block], width: int = WIDTH) -> str:
    """The blocks with an empty line between them; a table that is too wide continues below."""
    found = (_render(block, width) for block in blocks)
    return '\n\n'.join(text for text in found if text)


def _plain(text: str) -> str:
    return plain_text(text).translate(_ASCII).encode('ascii', 'replace').decode()


def _wrap(text: str, width: int, first: str = '', rest: str = '') -> str:
    return textwrap.fill(
        _plain(text), width, initial_indent=first, subsequent_indent=rest,
        break_on_hyphens=False,
    )  # fmt: skip


def _render(block: Block, width: int) -> str:
    match block:
        case Text(text):
            return _wrap(text, width)
        case Items(texts, title):
            lines = [_wrap(f'{title}:', width)] if title else []
            return '\n'.join(lines + [_wrap(text, width, '- ', '  ') for text in texts])
        case Table():
            return _table(block.short or block, width)
        case Picture(file, text):
            return _wrap(f'{text}: {file}', width)
        case Cautions(texts):
            return '\n'.join(_wrap(text, width, '! ', '  ') for text in texts)
        case Code(text):
            return text.translate(_ASCII).encode('ascii', 'replace').decode()
        case Section(title, inner):
            return f'{_wrap(title, width)}\n\n{to_console(inner, width)}'.strip()
    raise TypeError(f'{block!r} is not a block')


def _table(table: Table, width: int) -> str:
    rows = [[_cell(cell) for cell in row] for row in (table.header, *table.rows)]
    rows = [[row[0], *(_short(cell, _OTHER) for cell in row[1:])] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    rows = [[_short(row[0], room if room >= _LEAST else _FIRST), *row[1:]] for row in rows]
    widths[0] = max(len(row[0]) for row in rows)
    parts = [_wrap(table.title, width)] if table.title else []
    parts.append('\n\n'.join(_align(rows, widths, part) for part in _parts(widths, width)))
    parts += [_wrap(remark, width, '- ', '  ') for remark in table.remarks]
    return '\n'.join(parts)


def _cell(cell: str | Link) -> str:
    return ' '.join(_plain(cell.file if isinstance(cell, Link) else cell).split())


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2] + '..'


def _parts(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns of each part of the table, the first one in all of them."""
    parts, taken = [[0]], widths[0]
    for column, own in enumerate(widths[1:], start=1):
        if taken + 2 + own > width and len(parts[-1]) > 1:
            parts.append([0])
            taken = widths[0]
        parts[-1].append(column)
        taken += 2 + own
    return parts


def _align(rows: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int]) -> str:
    lines = [
        '  '.join(
            row[c].rjust(widths[c]) if c else row[c].ljust(widths[c]) for c in columns
        ).rstrip()
        for row in rows
    ]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])
