"""A folder of images: one subfolder per class, or a flat folder without labels.

    <source>/[images/]<class>/*.png, .jpg, .jpeg, .dcm      or      <source>/[images/]*.png ...
    <source>/metadata.csv       optional: file, and any of patient, label, sex, age, view, source,
                                lung_mask; further columns are kept as text
    <source>/lesion_boxes.csv   optional: file, finding, x, y, w, h in pixels of the stored image

`file` and `lung_mask` are paths relative to the csv file. Without class folders the column label
of metadata.csv, if there is one, gives the classes.
"""

from collections import defaultdict
from pathlib import Path

from data_pipelines.datasets.base import (
    LUNG_MASKS,
    UNLABELLED,
    Item,
    Listing,
    existing_folder,
    number,
    read_table,
)
from data_pipelines.errors import UserError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.dcm')
KNOWN_COLUMNS = ('file', 'patient', 'label', 'sex', 'age', 'view', 'source', 'lung_mask')


def list_items(source: Path, metadata: Path | None = None) -> Listing:
    """List the images of <source>; `metadata` replaces <source>/metadata.csv."""
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
    names = [_class_name(path, folder, rows[path]) for path, folder in paths]
    classes = tuple(folders) or tuple(sorted({name for name in names if name}))
    items = [
        _item(path, source, classes.index(name) if name else UNLABELLED, rows[path], boxes[path])
        for (path, _), name in zip(paths, names, strict=True)
    ]
    return Listing(items, classes, notes=notes)


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
    source: Path, metadata: Path | None, paths: list[Path], notes: list[str]
) -> dict[Path, dict]:
    """{image path: its row}, {} for images without one; `lung_mask` becomes a path."""
    table = metadata or source / 'metadata.csv'
    result = {path: {} for path in paths}
    if metadata is None and not table.is_file():
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


def _item(path: Path, source: Path, label: int, row: dict, boxes: list[tuple]) -> Item:
    columns = {k: v for k, v in row.items() if k not in KNOWN_COLUMNS and v}
    if boxes:
        columns['box_findings'] = [finding for finding, _ in boxes]
    return Item(
        path=path,
        relative=path.relative_to(source).as_posix(),
        label=label,
        patient=row.get('patient', ''),
        sex=row.get('sex', ''),
        age=number(row.get('age', '')),
        view=row.get('view', ''),
        source=row.get('source', ''),
        boxes=tuple(box for _, box in boxes),
        lung_mask=row.get('lung_mask') or None,
        columns=columns,
    )
