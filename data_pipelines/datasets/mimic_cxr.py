"""MIMIC-CXR-JPG 2.0.0, as PhysioNet has it.

    <source>/files/p10/p10000032/s50414267/<dicom_id>.jpg
    <source>/mimic-cxr-2.0.0-split.csv.gz, -metadata.csv.gz, -chexpert.csv.gz or -negbio.csv.gz

The tables may be unpacked (.csv). Labels are per study and are copied to its images.
"""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder
from data_pipelines.datasets.chexpert import FINDINGS, LABELS, labels_of, lateral_note
from data_pipelines.datasets.tables import files_below, leftovers, read_columns
from data_pipelines.errors import UserError

LABELLERS = ('chexpert', 'negbio')
SPLITS = {'train': 'train', 'validate': 'validation', 'test': 'test'}
FRONTAL = ('PA', 'AP')

LICENCE = 'the PhysioNet Credentialed Health Data License'


def list_items(source: Path, *, laterals: bool = False, labels: str = 'chexpert') -> Listing:
    """List the images of <source> whose view is PA or AP, with `laterals` all.

    `labels` is the program whose labels are read: chexpert or negbio. UserError.
    """
    existing_folder(source)
    if labels not in LABELLERS:
        raise UserError(f'--options labels={labels} must be one of {", ".join(LABELLERS)}.')
    said = {
        study: labels_of(dict(zip(LABELS, cells, strict=True)), f'study {study}')
        for study, *cells in _rows(source, labels, ('study_id', *LABELS))
    }
    views = dict(_rows(source, 'metadata', ('dicom_id', 'ViewPosition')))
    files = {f'files/{path}' for path in files_below(source / 'files', ('.jpg',))}
    items, missing, listed, left_out = [], [], set(), 0
    facts = ('dicom_id', 'study_id', 'subject_id', 'split')
    for image, study, patient, split in _rows(source, 'split', facts):
        relative = f'files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg'
        view = views.get(image, '')
        listed.add(relative)
        if view.partition(' ')[0] not in FRONTAL and not laterals:
            left_out += 1
        elif relative not in files:
            missing.append(relative)
        elif split not in SPLITS:
            raise UserError(f'The split of {image} is {split!r}, not one of {", ".join(SPLITS)}.')
        else:
            items.append(
                Item(
                    path=source / relative,
                    relative=relative,
                    labels=said.get(study, ()),
                    patient=f'mimic-{patient}',
                    study=f'mimic-{study}',
                    split=SPLITS[split],
                    view=view,
                )
            )
    left = leftovers('the split table', len(items), missing, sorted(files - listed))
    left['notes'] += lateral_note(left_out)
    return Listing(items, FINDINGS, exclusive=False, **left)


def _rows(source: Path, name: str, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    packed = source / f'mimic-cxr-2.0.0-{name}.csv.gz'
    unpacked = packed.with_suffix('')
    return read_columns(unpacked if unpacked.is_file() else packed, columns)
