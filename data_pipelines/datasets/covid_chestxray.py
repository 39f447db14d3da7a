"""covid-chestxray-dataset (github.com/ieee8023/covid-chestxray-dataset), as it is cloned.

    <source>/images/<filename>
    <source>/metadata.csv    patientid, finding, view, modality, folder, filename, sex, age, ...
    <source>/lung_masks/     optional: masks under the names of their images (those of v7labs)

The table has changed: names of columns in other cases or with spaces (`Patientid`, ` url`), and
findings that were flat (`COVID-19, ARDS`) are paths now (`Pneumonia/Viral/COVID-19`). A path shows
each of its findings; what lies below its end is not said. Laterals, CT and volumes are left out.
"""

import csv
from pathlib import Path

from data_pipelines.datasets.base import LUNG_MASKS, Item, Listing, existing_folder, number
from data_pipelines.errors import UserError

TABLE, IMAGES = 'metadata.csv', 'images'
NEEDED = ('patientid', 'finding', 'view', 'filename')
NO_FINDING = 'No Finding'
NOTHING_SAID = ('', 'todo', 'unknown')
KEPT = ('license', 'url', 'date', 'offset')
NOT_SAID = -2

LICENCE = 'that of each image (column license of metadata.csv)'


def list_items(source: Path) -> Listing:
    """List the frontal radiographs of <source>; see the module for the layout."""
    existing_folder(source)
    rows, items, rejected, used = _rows(source / TABLE), [], [], []
    for row in rows:
        reason = _reason(source, row)
        if reason:
            rejected.append((f'{row.get("folder") or IMAGES}/{row["filename"]}', reason))
        else:
            used.append(row)
    paths = [_paths(row['finding']) for row in used]
    names = tuple(sorted({name for found in paths for path in found for name in path}))
    tree = {path[:k] for found in paths for path in found for k in range(1, len(path) + 1)}
    for row, found in zip(used, paths, strict=True):
        items.append(_item(source, row, _labels(row['finding'], found, names, tree)))
    known = {item.path.name for item in items} | {Path(name).name for name, _ in rejected}
    rejected += [
        (f'{IMAGES}/{path.name}', f'not listed in {TABLE}')
        for path in sorted((source / IMAGES).glob('[!.]*'))
        if path.is_file() and path.name not in known
    ]
    return Listing(items, names, exclusive=False, rejected=rejected)


def _rows(table: Path) -> list[dict[str, str]]:
    """The table, names of columns in small letters."""
    if not table.is_file():
        raise UserError(f'{table} is missing. Clone the whole repository, or correct --source.')
    with table.open(newline='', encoding='utf-8-sig') as file:
        reader = csv.DictReader(file)
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in NEEDED if name not in reader.fieldnames]
        if missing:
            raise UserError(
                f'{table} lacks the columns {missing}; it has {reader.fieldnames}. Check that it '
                'is the unchanged file of the data set.'
            )
        return [{name: (row[name] or '').strip() for name in reader.fieldnames} for row in reader]


def _reason(source: Path, row: dict) -> str:
    """Why an image is left out; '' if it is not."""
    modality, view = row.get('modality') or 'X-ray', row['view']
    if modality.lower() != 'x-ray':
        return f'{modality}, not a radiograph'
    if view.upper()[:2] not in ('PA', 'AP'):
        return f'the view is {view or "not told"}, not frontal'
    if row.get('folder', IMAGES) not in ('', IMAGES):
        return f'it lies in {row["folder"]}, not in {IMAGES}'
    if not (source / IMAGES / row['filename']).is_file():
        return f'listed in {TABLE}, but there is no such file'
    return ''


def _paths(finding: str) -> list[tuple[str, ...]]:
    """'Pneumonia/Viral/COVID-19' -> its three names; 'COVID-19, ARDS' -> two paths."""
    paths = [tuple(p.strip() for p in each.split('/')) for each in finding.split(',')]
    nothing = (*NOTHING_SAID, NO_FINDING.lower())
    return [path for path in paths if path[0].lower() not in nothing]


def _labels(
    finding: str, found: list[tuple[str, ...]], names: tuple[str, ...], tree: set[tuple[str, ...]]
) -> tuple[int, ...]:
    """1 or 0 of each name, or not said; () of an image of which nothing is said."""
    if not found and finding.lower() != NO_FINDING.lower():
        return ()
    shown = {name for path in found for name in path}
    open_ = {path[-1] for path in tree for end in found if path[: len(end)] == end} - shown
    return tuple(NOT_SAID if name in open_ else int(name in shown) for name in names)


def _item(source: Path, row: dict, labels: tuple[int, ...]) -> Item:
    path = source / IMAGES / row['filename']
    masks = (source / LUNG_MASKS / name for name in (path.name, f'{path.stem}.png'))
    return Item(
        path=path,
        relative=path.relative_to(source).as_posix(),
        labels=labels,
        patient=row['patientid'],
        sex=row.get('sex', ''),
        age=number(row.get('age', '')),
        view=row['view'],
        source=row.get('location', ''),
        lung_mask=next((mask for mask in masks if mask.is_file()), None),
        columns={name: row[name] for name in KEPT if row.get(name)},
    )
