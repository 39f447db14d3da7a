"""CheXpert v1.0, small or full size: the folder that holds train.csv.

    <source>/train.csv, valid.csv
    <source>/{train,valid}/patient00001/study1/view1_frontal.jpg

The column Path begins with the archive's own name, which differs; its last four parts count. The
official `valid` (234 images that radiologists labelled) is the test split, as in papers, because
the official test images are not public; validation is drawn from `train` by patient.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder, number
from data_pipelines.datasets.tables import files_below, leftovers, read_columns
from data_pipelines.errors import UserError

FINDINGS = (
    'Enlarged Cardiomediastinum', 'Cardiomegaly', 'Lung Opacity', 'Lung Lesion', 'Edema',
    'Consolidation', 'Pneumonia', 'Atelectasis', 'Pneumothorax', 'Pleural Effusion',
    'Pleural Other', 'Fracture', 'Support Devices',
)  # fmt: skip
NO_FINDING = 'No Finding'
DEVICES = 'Support Devices'  # no disease: No Finding says nothing of it
LABELS = (NO_FINDING, *FINDINGS)
SAID = {'1.0': 1, '0.0': 0, '-1.0': -1, '': -2, '1': 1, '0': 0, '-1': -1}
FACTS = ('Path', 'Sex', 'Age', 'Frontal/Lateral', 'AP/PA')
SPLITS = {'train': 'train', 'valid': 'test'}

LICENCE = 'the research use agreement of Stanford University'


def list_items(source: Path, *, laterals: bool = False) -> Listing:
    """List the frontal images of <source>, with `laterals` all; see the module. UserError."""
    existing_folder(source)
    items, missing, listed, left_out = [], [], set(), 0
    files = {
        f'{folder}/{path}'
        for folder in SPLITS
        for path in files_below(source / folder, ('.jpg',))
    }
    for folder in SPLITS:
        table = source / f'{folder}.csv'
        for path, sex, age, side, view, *labels in read_columns(table, FACTS + LABELS):
            relative = '/'.join(path.split('/')[-4:])
            if relative.count('/') < 3:
                raise UserError(f'{table}: the path {path} is not of the form {folder}/../../..')
            listed.add(relative)
            if side == 'Lateral' and not laterals:
                left_out += 1
            elif relative in files:
                _, patient, study, _ = relative.split('/')
                items.append(
                    Item(
                        path=source / relative,
                        relative=relative,
                        labels=labels_of(dict(zip(LABELS, labels, strict=True)), path),
                        patient=f'chexpert-{patient}',
                        study=f'chexpert-{patient}-{study}',
                        split=SPLITS[folder],
                        sex='' if sex == 'Unknown' else sex,
                        age=number(age) or float('nan'),  # 0 stands for unknown
                        view=view or side,
                    )
                )
            else:
                missing.append(relative)
    left = leftovers('train.csv or valid.csv', len(items), missing, sorted(files - listed))
    left['notes'] += lateral_note(left_out)
    return Listing(items, FINDINGS, exclusive=False, **left)


def labels_of(cells: Mapping[str, str], where: str) -> tuple[int, ...]:
    """1, 0, -1 (uncertain) or -2 (not said) of each of FINDINGS, from the cells of LABELS.

    `No Finding` is none of them: where it is 1, a blank cell of a disease is 0. UserError.
    """
    wrong = [name for name in LABELS if cells[name] not in SAID]
    if wrong:
        raise UserError(
            f'The column {wrong[0]} has {cells[wrong[0]]!r} for {where}. It must be 1.0, 0.0, -1.0 '
            'or empty.'
        )
    nothing = SAID[cells[NO_FINDING]] == 1
    return tuple(
        0 if nothing and not cells[name] and name != DEVICES else SAID[cells[name]]
        for name in FINDINGS
    )


def lateral_note(left_out: int) -> Sequence[str]:
    """For the card."""
    told = f'{left_out} images that are not frontal are left out (--options laterals=True).'
    return [told] if left_out else []
