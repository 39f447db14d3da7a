"""ISIC 2019, skin lesions in colour, as the archives of the training data unpack.

    <source>/ISIC_2019_Training_Input/<image>.jpg
    <source>/ISIC_2019_Training_GroundTruth.csv    image, and a column of 0.0 or 1.0 for each class
    <source>/ISIC_2019_Training_Metadata.csv       image, age_approx, anatom_site_general,
                                                   lesion_id, sex; optional, cells may be empty

Names may end in `_downsampled` in one file and not in another. Patients are not known: the lesion
stands for its patient.
"""

from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder, number, one_of, read_table
from data_pipelines.errors import UserError

CLASSES = ('MEL', 'NV', 'BCC', 'AK', 'BKL', 'DF', 'VASC', 'SCC')
UNKNOWN = 'UNK'
IMAGES = 'ISIC_2019_Training_Input'
LABELS = 'ISIC_2019_Training_GroundTruth.csv'
METADATA = 'ISIC_2019_Training_Metadata.csv'
SUFFIX = '_downsampled'

LICENCE = 'CC BY-NC 4.0 (ISIC 2019 Challenge: HAM10000, BCN_20000 and MSK)'


def list_items(source: Path) -> Listing:
    """List the images of <source>, in colour; see the module for the layout."""
    existing_folder(source)
    folder = source / IMAGES
    if not folder.is_dir():
        raise UserError(
            f'{source} has no folder {IMAGES}. Unpack the archive so that the images lie in '
            f'{folder}.'
        )
    files = {_name(path.stem): path for path in sorted(folder.glob('[!.]*.jpg'))}
    facts, notes = _facts(source / METADATA)
    items, rejected = [], []
    for row in read_table(source / LABELS, ('image', *CLASSES, UNKNOWN)):
        path = files.pop(_name(row['image']), None)
        if path is None:
            missing = f'{IMAGES}/{row["image"]}.jpg'
            rejected.append((missing, f'listed in {LABELS}, but there is no such file'))
            continue
        items.append(_item(source, path, row, facts.get(_name(row['image']), {})))
    rejected += [
        (path.relative_to(source).as_posix(), f'not listed in {LABELS}') for path in files.values()
    ]
    return Listing(items, CLASSES, rejected=rejected, notes=notes, channels=3)


def _name(image: str) -> str:
    return image.removesuffix(SUFFIX)


def _facts(table: Path) -> tuple[dict[str, dict], list[str]]:
    """({image: its row}, notes for the card)."""
    notes = ['A patient is a lesion: one person may have several, in training and in test.']
    if not table.is_file():
        return {}, [*notes, f'{METADATA} is missing: no lesion, sex, age or site is known.']
    wanted = ('image', 'age_approx', 'anatom_site_general', 'lesion_id', 'sex')
    return {_name(row['image']): row for row in read_table(table, wanted)}, notes


def _item(source: Path, path: Path, row: dict, facts: dict) -> Item:
    lesion, site = facts.get('lesion_id', ''), facts.get('anatom_site_general', '')
    return Item(
        path=path,
        relative=path.relative_to(source).as_posix(),
        labels=_labels(row),
        patient=lesion,
        sex=facts.get('sex', ''),
        age=number(facts.get('age_approx', '')),
        # HAM_0000550: the collection that the lesion comes from.
        source=lesion.partition('_')[0] if '_' in lesion else '',
        columns={'site': site} if site else {},
    )


def _labels(row: dict) -> tuple[int, ...]:
    """1 or 0 for each of CLASSES; () of an image that is of an unknown class."""
    shown = [name for name in (*CLASSES, UNKNOWN) if number(row[name]) == 1]
    if len(shown) != 1:
        raise UserError(
            f'{LABELS}: the image {row["image"]} has {len(shown)} classes ({", ".join(shown)}); '
            'exactly one column must be 1.'
        )
    return () if shown == [UNKNOWN] else one_of(CLASSES, shown[0])
