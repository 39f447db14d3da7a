"""COVID-19 Radiography Database (Kaggle, tawsifurrahman): classes from different hospitals.

    <source>/[COVID-19_Radiography_Dataset/]<class>/images/<class>-<n>.png
    <source>/[...]/<class>/masks/<class>-<n>.png    lungs; smaller than the images
    <source>/[...]/<class>.metadata.xlsx            FILE NAME, FORMAT, SIZE, URL; optional, or .csv

<class> is COVID, Lung_Opacity, Normal or Viral Pneumonia. Older releases have no level images/, no
masks, and not all classes. No patients are known. The tables name the file Normal-1.png NORMAL-1.
"""

from pathlib import Path
from urllib.parse import urlsplit

from data_pipelines.datasets.base import Item, Listing, existing_folder, one_of, read_table
from data_pipelines.datasets.xlsx import read_sheet
from data_pipelines.errors import UserError

CLASSES = ('COVID', 'Lung_Opacity', 'Normal', 'Viral Pneumonia')
TOP = 'COVID-19_Radiography_Dataset'
NAME, URL = 'FILE NAME', 'URL'
# Where all images of a class come from, whatever its table says or if there is none.
RSNA, PAEDIATRIC = 'rsna-pneumonia-detection-challenge', 'chest-xray-pneumonia'
SOURCES = {'Lung_Opacity': RSNA, 'Viral Pneumonia': PAEDIATRIC}
# Hosts of many collections: the end of the path tells which one.
SHARED_HOSTS = ('kaggle.com', 'github.com')

LICENCE = 'that of each source of the COVID-19 Radiography Database (Kaggle)'
CONFOUNDED = (
    'Every class has sources of its own (COVID: BIMCV and others, Lung_Opacity: RSNA, Normal: RSNA '
    'and children, Viral Pneumonia: children): a model can score well by telling these apart.'
)


def list_items(source: Path) -> Listing:
    """List the images of <source>; see the module for the layout."""
    existing_folder(source)
    top = source / TOP if (source / TOP).is_dir() else source
    folders = {path.name.casefold(): path for path in sorted(top.iterdir()) if path.is_dir()}
    names = tuple(name for name in CLASSES if name.casefold() in folders)
    if len(names) < 2:
        raise UserError(
            f'{top} holds {", ".join(names) or "none"} of the folders {", ".join(CLASSES)}; two or '
            'more are needed. Give the unpacked archive with --source.'
        )
    items, notes = [], [CONFOUNDED]
    for name in names:
        items += _of_class(source, folders[name.casefold()], name, names, notes)
    return Listing(items, names, notes=notes)


def _of_class(
    source: Path, folder: Path, name: str, names: tuple[str, ...], notes: list[str]
) -> list[Item]:
    sources = _sources(folder.parent, name, notes)
    images = folder / 'images' if (folder / 'images').is_dir() else folder
    items = []
    for path in sorted(images.glob('[!.]*.png')):
        mask = folder / 'masks' / path.name
        items.append(
            Item(
                path=path,
                relative=path.relative_to(source).as_posix(),
                labels=one_of(names, name),
                source=SOURCES.get(name) or sources.get(path.stem.casefold(), ''),
                lung_mask=mask if mask.is_file() else None,
            )
        )
    unknown = sum(not item.source for item in items)
    if sources and unknown:
        notes.append(f'{unknown} of {len(items)} images of {name} have no row in its table.')
    return items


def _sources(top: Path, name: str, notes: list[str]) -> dict[str, str]:
    """{file name without suffix, in small letters: where the image comes from}."""
    table = top / f'{name}.metadata'
    sheet, csv = (table.with_name(table.name + suffix) for suffix in ('.xlsx', '.csv'))
    if csv.is_file():
        rows = read_table(csv, (NAME, URL))
    elif sheet.is_file():
        rows = read_sheet(sheet, (NAME, URL))
    else:
        if name not in SOURCES:
            notes.append(f'{sheet.name} is missing: the sources of {name} are not known.')
        return {}
    return {row[NAME].casefold(): _source(row[URL]) for row in rows}


def _source(url: str) -> str:
    """'https://www.kaggle.com/c/<name>/data' -> '<name>'; of most hosts 'sirm.org'."""
    parts = urlsplit(url if '//' in url else f'//{url}')
    host = parts.netloc.removeprefix('www.')
    path = [part for part in parts.path.split('/') if part]
    return path[1] if host in SHARED_HOSTS and len(path) > 1 else host
