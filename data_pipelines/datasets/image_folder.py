"""A folder of images: one subfolder per class, or a flat folder, with or without labels.

    <source>/[images/]<class>/*.png, .jpg, .jpeg, .dcm      or      <source>/[images/]*.png ...
    <source>/metadata.csv       optional: file, and any of patient, label, sex, age, view, source,
                                lung_mask; further columns are kept as text
    <source>/lesion_boxes.csv   optional: file, finding, x, y, w, h in pixels of the stored image

`file` and `lung_mask` are paths relative to the csv file. Without class folders the labels come
from metadata.csv, if it has any. The column label names a class, or, where a | occurs anywhere in
it, all findings of an image: 'Effusion|Mass' shows these two and none of the others, 'No Finding'
or 'no_finding' none at all, an empty cell says nothing. Columns finding:<name> say it one by one:
1, 0, -1 (uncertain) or empty (not said).
"""

from collections import defaultdict
from pathlib import Path

from data_pipelines.datasets.base import (
    LUNG_MASKS,
    Item,
    Listing,
    existing_folder,
    number,
    one_of,
    read_table,
)
from data_pipelines.errors import UserError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.dcm')
FINDING = 'finding:'
NOT_SAID = -2
KNOWN_COLUMNS = ('file', 'patient', 'label', 'sex', 'age', 'view', 'source', 'lung_mask')

LICENCE = "the images' own"


def list_items(source: Path, *, metadata: str = '') -> Listing:
    """List the images of <source>; the path `metadata` replaces <source>/metadata.csv."""
    existing_folder(source)
    top = source / 'images' if (source / 'images').is_dir() else source
    folders = _class_folders(top)
    loose = _images(top)
    if folders and loose:
        raise UserError(
            f'{top} holds both class folders ({", ".join(folders)}) and images of its own '
            f'({loose[0].name}, ...). Move the images into class folders, or the folders away.'
        )
    paths = [(path, name) for name in folders for path in _images(top / name)]
    paths += [(path, '') for path in loose]
    if not paths:
        raise UserError(f'No image ({", ".join(SUFFIXES)}) lies in {top} or its subfolders.')

    notes = []
    rows = _metadata(source, metadata, [path for path, _ in paths], notes)
    boxes = _lesion_boxes(source / 'lesion_boxes.csv', [path for path, _ in paths], notes)
    names, exclusive, labels = _labels(paths, folders, rows)
    items = [_item(path, source, labels[path], rows[path], boxes[path]) for path, _ in paths]
    return Listing(items, names, exclusive, notes=notes)


def _labels(
    paths: list[tuple[Path, str]], folders: list[str], rows: dict[Path, dict]
) -> tuple[tuple[str, ...], bool, dict[Path, tuple[int, ...]]]:
    """(names, whether they exclude one another, {image path: its labels}); UserError."""
    given = {path: _class_name(path, folder, rows[path]) for path, folder in paths}
    columns = sorted({name for row in rows.values() for name in row if name.startswith(FINDING)})
    if columns:
        if any(given.values()):
            raise UserError(
                f'The images have columns of findings ({columns[0]}, ...) and also a class, by '
                'their folder or in the column label. Keep one of the two.'
            )
        names = tuple(column.removeprefix(FINDING).strip() for column in columns)
        return names, False, {path: _said(path, columns, row) for path, row in rows.items()}
    if folders or not any('|' in name for name in given.values()):
        names = tuple(folders) or tuple(sorted(set(given.values()) - {''}))
        labels = {path: one_of(names, name) if name else () for path, name in given.items()}
        return names, True, labels
    found = {path: _findings(path, text) for path, text in given.items()}
    names = tuple(sorted({name for shown in found.values() for name in shown}))
    return names, False, {
        path: tuple(int(name in shown) for name in names) if given[path] else ()
        for path, shown in found.items()
    }  # fmt: skip


def _said(path: Path, columns: list[str], row: dict) -> tuple[int, ...]:
    """The cells of the columns finding:<name> as labels."""
    labels = []
    for column in columns:
        cell = row.get(column, '')
        said = number(cell) if cell else NOT_SAID
        if said not in (1, 0, -1, NOT_SAID) or (cell and said == NOT_SAID):
            raise UserError(
                f'The column {column} has {cell!r} for {path}. It must be 1 (shown), 0 (not '
                'shown), -1 (uncertain) or empty (not said).'
            )
        labels.append(int(said))
    return tuple(labels) if any(label != NOT_SAID for label in labels) else ()


def _findings(path: Path, text: str) -> set[str]:
    """'Effusion|Mass' as a set, 'No Finding' as an empty one."""
    shown = {name.strip() for name in text.split('|')} - {''}
    none = {name for name in shown if name.lower().replace(' ', '_') == 'no_finding'}
    if none and shown > none:
        raise UserError(
            f'The label {text!r} of {path} says that there is no finding, and names one. Correct '
            'it in the csv.'
        )
    return shown - none


def _class_folders(top: Path) -> list[str]:
    folders = sorted(
        path.name
        for path in top.iterdir()
        if path.is_dir() and path.name != LUNG_MASKS and not path.name.startswith('.')
    )
    for name in folders:
        if not _images(top / name):
            raise UserError(
                f'The class folder {top / name} holds no image ({", ".join(SUFFIXES)}); images '
                'must lie directly in it. Add some, or remove the folder.'
            )
    return folders


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith('.')
    )


def _metadata(
    source: Path, metadata: str, paths: list[Path], notes: list[str]
) -> dict[Path, dict]:
    """{image path: its row}, {} for images without one; `lung_mask` becomes a path."""
    table = Path(metadata) if metadata else source / 'metadata.csv'
    result = {path: {} for path in paths}
    if not metadata and not table.is_file():
        return result
    known = {path.resolve(): path for path in paths}
    rows = read_table(table, ('file',))
    matched = 0
    for row in rows:
        path = known.get((table.parent / row['file']).resolve())
        if path is None:
            continue
        matched += 1
        if row.get('lung_mask'):
            row['lung_mask'] = table.parent / row['lung_mask']
        result[path] = row
    if not matched:
        raise UserError(
            f'No row of {table} names an image of {source}. Its column file must hold paths '
            f'relative to {table.parent}.'
        )
    if matched < len(rows):
        notes.append(f'{len(rows) - matched} of {len(rows)} rows of {table.name} name no image.')
    without = sum(not row for row in result.values())
    if without:
        notes.append(f'{without} of {len(paths)} images have no row in {table.name}.')
    return result


def _lesion_boxes(table: Path, paths: list[Path], notes: list[str]) -> dict[Path, list[tuple]]:
    """{image path: [(finding, (x, y, w, h)), ..]}."""
    result = defaultdict(list)
    if not table.is_file():
        return result
    known = {path.resolve(): path for path in paths}
    unknown = 0
    for row in read_table(table, ('file', 'finding', 'x', 'y', 'w', 'h')):
        path = known.get((table.parent / row['file']).resolve())
        box = tuple(number(row[name]) for name in 'xywh')
        if any(value != value for value in box):
            raise UserError(
                f'{table}: the box of {row["file"]} has a cell that is not a number. '
                'Give x, y, w and h in pixels of the stored image.'
            )
        if path is None:
            unknown += 1
        else:
            result[path].append((row['finding'], box))
    if unknown:
        notes.append(f'{unknown} boxes of {table.name} belong to no image.')
    return result


def _class_name(path: Path, folder: str, row: dict) -> str:
    label = row.get('label', '')
    if folder and label and folder != label:
        raise UserError(
            f"{path} lies in the class folder '{folder}', but the metadata give it the label "
            f"'{label}'. Correct one of them, or rename the column label."
        )
    return folder or label


def _item(path: Path, source: Path, labels: tuple[int, ...], row: dict, boxes: list[tuple]) -> Item:
    columns = {
        k: v for k, v in row.items() if v and k not in KNOWN_COLUMNS and not k.startswith(FINDING)
    }
    if boxes:
        columns['box_findings'] = [finding for finding, _ in boxes]
    return Item(
        path=path,
        relative=path.relative_to(source).as_posix(),
        labels=labels,
        patient=row.get('patient', ''),
        sex=row.get('sex', ''),
        age=number(row.get('age', '')),
        view=row.get('view', ''),
        source=row.get('source', ''),
        boxes=tuple(box for _, box in boxes),
        lung_mask=row.get('lung_mask') or None,
        columns=columns,
    )
