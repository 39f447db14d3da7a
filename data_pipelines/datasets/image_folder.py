"""Any folder of images: DICOM, PNG or JPEG by content, at any depth, with or without labels.

    <source>/[images/]...       if there is a folder images, only what is below it is read
    <source>/metadata.csv       optional: file, and any of patient, label, sex, age, view, source,
                                lung_mask; further columns are kept as text
    <source>/lesion_boxes.csv   optional: file, finding, x, y, w, h in pixels of the stored image

Any other table does, with --metadata FILE, and --columns file=image_id,label=diagnosis where its
columns have other names. An image is named by its path relative to the table, by the end of its
path, or by its name with or without suffix; a lung mask by its path relative to the table.

folder_layout says when folders are classes or splits. A table that tells findings, or labels of
which none is the name of a folder, is preferred to classes by folder. The column label names a
class, or, where a | occurs anywhere in it, all findings of an image: 'Effusion|Mass' shows these
two and none of the others, 'No Finding' or 'no_finding' none at all, an empty cell says nothing.
Columns finding:<name>, or those of --columns findings=Effusion+Mass, say it one by one: 1, 0, -1
(uncertain) or empty (not said).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydicom.tag import Tag

from data_pipelines.datasets.base import (
    Item,
    Listing,
    existing_folder,
    number,
    one_of,
    read_table,
)
from data_pipelines.datasets.folder_files import Found, by_suffix, find_files
from data_pipelines.datasets.folder_layout import AUTO, SPLITS, Layout, read_layout
from data_pipelines.datasets.folder_tables import (
    FINDING,
    FileNames,
    match_rows,
    name_unused,
    read_metadata,
)
from data_pipelines.errors import UserError
from data_pipelines.raw.dicom_pixels import read_header
from data_pipelines.raw.kinds import DICOM

IMAGES = 'images/'
BOXES, OWN_SPLITS = 'lesion_boxes.csv', 'splits.csv'
NOT_SAID = -2

LICENCE = "the images' own"


def list_items(
    source: Path, *, metadata: str = '', columns: str = '', classes: str = AUTO
) -> Listing:
    """List the images of <source>. The table `metadata` replaces <source>/metadata.csv, `columns`
    says what its columns are called, and `classes` whether folders are classes: auto (as
    folder_layout has it), folders or none. UserError."""
    existing_folder(source)
    notes = []
    table, rows = read_metadata(source, metadata, columns)
    found = find_files(source)
    images = _images(source, found, rows, notes)
    file_names = FileNames(source, images)
    row_of = {image: {} for image in images}
    if table:
        row_of = match_rows(table, rows, file_names, images, notes)
    layout = read_layout(images, classes, lambda image: _patient_of(source, image, found))
    if classes == AUTO and _says_otherwise(rows, layout):
        layout = replace(layout, classes={}, notes=[
            *layout.notes[:-1],
            f'The folders of the images are not taken as classes, as {table.name} says what the '
            'images show.',
        ])  # fmt: skip
    notes += layout.notes
    boxes = _lesion_boxes(source / BOXES, file_names, notes)
    used = {path.resolve() for path in (table, source / BOXES, source / OWN_SPLITS) if path}
    unused = [name for name in found.tables if (source / name).resolve() not in used]
    name_unused(source, unused, notes)
    names, exclusive, labels = _labels(layout, row_of)
    items = [
        _item(source, image, labels[image], row | _split_of(layout, image, row), boxes[image])
        for image, row in row_of.items()
    ]
    return Listing(items, names, exclusive, found.rejected, notes)


def _images(source: Path, found: Found, rows: Sequence[dict], notes: list[str]) -> list[str]:
    """The images to list: no lung masks, and only those below the folder images if it has any."""
    file_names = FileNames(source, found.images)
    masks = {file_names.at(row['lung_mask']) for row in rows if row.get('lung_mask')}
    every = [image for image in found.images if image not in masks]
    images = [image for image in every if image.startswith(IMAGES)] or every
    if not images:
        others = [*found.others, *found.tables, *(path for path, _ in found.rejected)]
        seen = f' The files there are: {by_suffix(others)}.' if others else ''
        raise UserError(f'No DICOM, PNG or JPEG file lies in {source} or below it.{seen}')
    if len(images) < len(every):
        notes.append(f'Left out, lying outside of {IMAGES}: {len(every) - len(images)} images.')
    if found.others:
        notes.append(f'Left out, being no DICOM, PNG or JPEG: {by_suffix(found.others)}.')
    return images


def _patient_of(source: Path, image: str, found: Found) -> str:
    if found.images[image] != DICOM:
        return ''
    try:
        with (source / image).open('rb') as file:
            return str(read_header(file, [Tag('PatientID')]).get('PatientID') or '')
    except Exception:  # any damage can surface as any kind of error; decoding will tell
        return ''


def _says_otherwise(rows: Sequence[dict], layout: Layout) -> bool:
    """Whether a table tells findings, or labels of which none is called as a folder is."""
    labels = {row.get('label', '') for row in rows} - {''}
    findings = any(row[name] for row in rows for name in row if name.startswith(FINDING))
    other = findings or (bool(labels) and labels.isdisjoint(layout.classes.values()))
    return bool(layout.classes) and other


def _labels(
    layout: Layout, row_of: dict[str, dict]
) -> tuple[tuple[str, ...], bool, dict[str, tuple[int, ...]]]:
    """(names, whether they exclude one another, {image: its labels}); UserError."""
    given = {image: _class_name(image, layout, row) for image, row in row_of.items()}
    columns = sorted({name for row in row_of.values() for name in row if name.startswith(FINDING)})
    if columns:
        if any(given.values()):
            raise UserError(
                f'The images have columns of findings ({columns[0]}, ...) and also a class, by '
                'their folder or in the column label. Keep one of the two; with --options '
                'classes=none folders are no classes.'
            )
        names = tuple(column.removeprefix(FINDING).strip() for column in columns)
        return names, False, {image: _said(image, columns, row) for image, row in row_of.items()}
    if layout.classes or not any('|' in name for name in given.values()):
        names = tuple(sorted(set(given.values()) - {''}))
        labels = {image: one_of(names, name) if name else () for image, name in given.items()}
        return names, True, labels
    found = {image: _findings(image, text) for image, text in given.items()}
    names = tuple(sorted({name for shown in found.values() for name in shown}))
    return names, False, {
        image: tuple(int(name in shown) for name in names) if given[image] else ()
        for image, shown in found.items()
    }  # fmt: skip


def _said(image: str, columns: list[str], row: dict) -> tuple[int, ...]:
    """The cells of the columns finding:<name> as labels."""
    labels = []
    for column in columns:
        cell = row.get(column, '')
        said = number(cell) if cell else NOT_SAID
        if said not in (1, 0, -1, NOT_SAID) or (cell and said == NOT_SAID):
            raise UserError(
                f'The column {column} has {cell!r} for {image}. It must be 1 (shown), 0 (not '
                'shown), -1 (uncertain) or empty (not said).'
            )
        labels.append(int(said))
    return tuple(labels) if any(label != NOT_SAID for label in labels) else ()


def _findings(image: str, text: str) -> set[str]:
    """'Effusion|Mass' as a set, 'No Finding' as an empty one."""
    shown = {name.strip() for name in text.split('|')} - {''}
    none = {name for name in shown if name.lower().replace(' ', '_') == 'no_finding'}
    if none and shown > none:
        raise UserError(
            f'The label {text!r} of {image} says that there is no finding, and names one. Correct '
            'it in the csv.'
        )
    return shown - none


def _lesion_boxes(table: Path, file_names: FileNames, notes: list[str]) -> dict[str, list[tuple]]:
    """{image: [(finding, (x, y, w, h)), ..]}."""
    result = defaultdict(list)
    if not table.is_file():
        return result
    unknown = 0
    for row in read_table(table, ('file', 'finding', 'x', 'y', 'w', 'h')):
        image = file_names.find(row['file'], table)
        box = tuple(number(row[name]) for name in 'xywh')
        if any(value != value for value in box):
            raise UserError(
                f'{table}: the box of {row["file"]} has a cell that is not a number. '
                'Give x, y, w and h in pixels of the stored image.'
            )
        if image is None:
            unknown += 1
        else:
            result[image].append((row['finding'], box))
    if unknown:
        notes.append(f'{unknown} boxes of {table.name} belong to no image.')
    return result


def _class_name(image: str, layout: Layout, row: dict) -> str:
    folder, label = layout.classes.get(image, ''), row.get('label', '')
    if folder and label and folder != label:
        raise UserError(
            f"{image} lies in the class folder '{folder}', but the metadata give it the label "
            f"'{label}'. Correct one of them, or say with --options classes=none that folders are "
            'no classes.'
        )
    return folder or label


def _split_of(layout: Layout, image: str, row: dict) -> dict[str, str]:
    text = row.get('split', '')
    if text and text.lower() not in SPLITS:
        raise UserError(
            f'The split of {image} is {text!r}. It must be one of {", ".join(SPLITS)}, or empty.'
        )
    return {'split': SPLITS[text.lower()] if text else layout.splits.get(image, '')}


def _item(source: Path, image: str, labels: tuple[int, ...], row: dict, boxes: list[tuple]) -> Item:
    columns = {name: cell for name, cell in row.get('columns', {}).items() if cell}
    if boxes:
        columns['box_findings'] = [finding for finding, _ in boxes]
    return Item(
        path=source / image,
        relative=image,
        labels=labels,
        patient=row.get('patient', ''),
        study=row.get('study', ''),
        split=row['split'],
        sex=row.get('sex', ''),
        age=number(row.get('age', '')),
        view=row.get('view', ''),
        source=row.get('source', ''),
        boxes=tuple(box for _, box in boxes),
        lung_mask=row.get('lung_mask') or None,
        columns=columns,
    )
