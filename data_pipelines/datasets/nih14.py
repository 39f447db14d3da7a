"""NIH ChestX-ray14, with its 12 archives unpacked or all images in one folder.

    <source>/images_001/images/*.png ... images_012     or      <source>/images/*.png
    <source>/Data_Entry_2017.csv, or Data_Entry_2017_v2020.csv
    <source>/train_val_list.txt, test_list.txt      optional: the official split
    <source>/BBox_List_2017.csv                     optional

A comma inside a name of a column splits the headers of both csv files, which are therefore read by
position.
"""

from collections import defaultdict
from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder, number
from data_pipelines.datasets.tables import files_below, leftovers, read_rows, years
from data_pipelines.errors import UserError

FINDINGS = (
    'Atelectasis', 'Cardiomegaly', 'Consolidation', 'Edema', 'Effusion', 'Emphysema', 'Fibrosis',
    'Hernia', 'Infiltration', 'Mass', 'Nodule', 'Pleural_Thickening', 'Pneumonia', 'Pneumothorax',
)  # fmt: skip
NO_FINDING = 'No Finding'
ENTRIES = ('Data_Entry_2017_v2020.csv', 'Data_Entry_2017.csv')
COLUMNS = 11
LISTS = {'train_val_list.txt': 'train', 'test_list.txt': 'test'}
BOXES = 'BBox_List_2017.csv'

LICENCE = 'no restrictions; the NIH Clinical Center asks to be named as the source'


def list_items(source: Path) -> Listing:
    """List the images of <source>; see the module for the layout. UserError."""
    existing_folder(source)
    table = next((source / name for name in ENTRIES if (source / name).is_file()), None)
    if table is None:
        raise UserError(f'{source} has neither {ENTRIES[0]} nor {ENTRIES[1]}. Download one there.')
    files = {}
    for folder in sorted(source.glob('images*')):
        for path in files_below(folder, ('.png',)):
            files[path.rpartition('/')[2]] = f'{folder.name}/{path}'
    splits = _splits(source)
    boxes = _boxes(source / BOXES)
    items, missing, ageless = [], [], 0
    for row in read_rows(table, ('Image Index', 'Finding Labels')):
        if len(row) < COLUMNS:
            raise UserError(f'{table}: the row of {row[0]} has {len(row)} cells, not {COLUMNS}.')
        image, labels, _, patient, age, sex, view = row[:7]
        relative = files.pop(image, None)
        if relative is None:
            missing.append(image)
            continue
        age_in_years = years(age)
        ageless += age_in_years != age_in_years
        own = boxes.get(image, ())
        items.append(
            Item(
                path=source / relative,
                relative=relative,
                labels=_labels(labels, f'{table}, {image}'),
                patient=patient_name(patient, f'{table}, {image}'),
                split=splits.get(image, ''),
                sex=sex,
                age=age_in_years,
                view=view,
                boxes=tuple(box for _, box in own),
                columns={'box_findings': [name for name, _ in own]} if own else {},
            )
        )
    left = leftovers(table.name, len(items), missing, files.values())
    if ageless:
        left['notes'].append(f'{table.name} has no possible age for {ageless} images.')
    if not splits:
        left['notes'].append(f'{" and ".join(LISTS)} are not both there: no official split.')
    return Listing(items, FINDINGS, exclusive=False, **left)


def patient_name(digits: str, where: str) -> str:
    """The raw id of a patient of the NIH Clinical Center, in every data set made of its images."""
    if not digits.isdecimal():
        raise UserError(f'{where}: {digits!r} is no number of a patient.')
    return f'nih-{int(digits):05d}'


def _labels(text: str, where: str) -> tuple[int, ...]:
    shown = set(text.split('|'))
    if shown == {NO_FINDING}:
        return (0,) * len(FINDINGS)
    if not shown <= set(FINDINGS):
        raise UserError(
            f'{where}: {text!r} must be {NO_FINDING}, or some of {", ".join(FINDINGS)} joined by |.'
        )
    return tuple(int(name in shown) for name in FINDINGS)


def _splits(source: Path) -> dict[str, str]:
    """{image: split} of the official lists, {} unless both are there."""
    if not all((source / name).is_file() for name in LISTS):
        return {}
    return {
        image: split
        for name, split in LISTS.items()
        for image in (source / name).read_text().split()
    }


def _boxes(table: Path) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """{image: [(finding, (x, y, w, h)), ..]}."""
    boxes = defaultdict(list)
    for row in read_rows(table, ('Image Index', 'Finding Label')) if table.is_file() else ():
        image, finding = row[:2]
        box = tuple(number(cell) for cell in row[2:6])
        finding = 'Infiltration' if finding == 'Infiltrate' else finding
        if len(box) != 4 or any(value != value for value in box) or finding not in FINDINGS:
            raise UserError(f'{table}: the row {",".join(row)} is no finding and its box.')
        boxes[image].append((finding, box))
    return boxes
