"""The first sheet of an Excel workbook, by the standard library: texts and numbers, no formulas."""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from data_pipelines.errors import UserError

_SPACE = '{http://schemas.openxmlformats.org/spreadsheetml/2006/main}'


def read_sheet(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Its rows by the names in the first one, which must have `columns`; cells are stripped."""
    try:
        header, *rows = _rows(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise UserError(
            f'{path} cannot be read as an Excel workbook ({type(error).__name__}). Download it '
            'again, or save it as csv beside it.'
        ) from None
    missing = [name for name in columns if name not in header.values()]
    if missing:
        raise UserError(
            f'{path} lacks the columns {missing}; it has {list(header.values())}. Check that it is '
            'the unchanged file of the data set.'
        )
    return [{name: row.get(place, '') for place, name in header.items()} for row in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    """{letters of the column: text of the cell} of every row that has cells."""
    with zipfile.ZipFile(path) as archive:
        shared = []
        if 'xl/sharedStrings.xml' in archive.namelist():
            strings = ElementTree.fromstring(archive.read('xl/sharedStrings.xml'))
            shared = [_text(each) for each in strings.iter(f'{_SPACE}si')]
        sheet = ElementTree.fromstring(archive.read('xl/worksheets/sheet1.xml'))
    rows = []
    for row in sheet.iter(f'{_SPACE}row'):
        cells = {}
        for cell in row.iter(f'{_SPACE}c'):
            value = _text(cell)
            text = shared[int(value)] if cell.get('t') == 's' and value else value
            cells[re.match('[A-Z]*', cell.get('r', ''))[0]] = text.strip()
        if any(cells.values()):
            rows.append(cells)
    return rows


def _text(element: ElementTree.Element) -> str:
    """What stands in a cell or a shared string, whatever its formats."""
    wanted = (f'{_SPACE}v', f'{_SPACE}t')
    return ''.join(each.text or '' for each in element.iter() if each.tag in wanted)
