"""What the folders around images say: the data set's own splits, and classes.

Folders that hold everything say nothing. If those below are called train, val or test, they are the
splits. Below them, folders are classes if every image lies exactly one folder deep and they do not
look like patients or parts, which they do if

- each holds one image only, or
- their names differ in nothing but digits (PAT001, images_001), single digits excepted, or
- there are fewer than FEW images to a folder, and every name has a digit or there are more than
  MANY folders, or
- the headers of DICOM files name one patient to a folder, in each another.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from data_pipelines.datasets.folder_files import readable
from data_pipelines.errors import UserError

AUTO, FOLDERS, NONE = 'auto', 'folders', 'none'
SPLITS = {
    'train': 'train', 'training': 'train',
    'val': 'validation', 'valid': 'validation', 'validation': 'validation', 'dev': 'validation',
    'test': 'test', 'testing': 'test',
}  # fmt: skip
FEW, MANY = 5, 20
# Of how many folders, and how many files of each, the headers are asked for the patient.
ASKED = (20, 3)


@dataclass(frozen=True)
class Layout:
    """{path: class} and {path: split} where the folders say them, and what was decided."""

    classes: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_layout(
    paths: Sequence[str], classes: str, patient_of: Callable[[str], str]
) -> Layout:
    """`paths` of the images below their common folder; `classes` is AUTO, FOLDERS (the innermost
    folder is the class, whatever the rule says) or NONE. `patient_of` a path is the id in its
    header, '' for none. UserError for another `classes`."""
    if classes not in (AUTO, FOLDERS, NONE):
        raise UserError(
            f'--options classes={classes} must be {AUTO}, {FOLDERS} (the folder of an image is its '
            f'class) or {NONE}.'
        )
    folders = {path: path.split('/')[:-1] for path in paths}
    inner = _without_common(folders)
    splits, notes = {}, []
    tops = {parts[0].lower() if parts else '' for parts in inner.values()}
    said = {SPLITS.get(top) for top in tops}
    if None not in said and 'train' in said and len(said) > 1:
        splits = {path: SPLITS[parts[0].lower()] for path, parts in inner.items()}
        folders = {path: parts[1:] for path, parts in inner.items()}
        inner = _without_common(folders)
        notes.append(f"The folders {', '.join(sorted(tops))} are the data set's own splits.")
    telling = inner if any(inner.values()) else folders
    names = {path: readable(parts[-1]) if parts else '' for path, parts in telling.items()}
    if classes == FOLDERS:
        return Layout(names, splits, notes)
    if classes == NONE or not any(inner.values()):
        return Layout({}, splits, notes)
    why_not = _why_no_classes(inner, patient_of)
    if why_not:
        notes.append(
            f'The folders of the images are not taken as classes, as {why_not}. With --options '
            f'classes={FOLDERS} they are.'
        )
        return Layout({}, splits, notes)
    found = sorted(set(names.values()))
    notes.append(
        f'The folders of the images are their classes: {", ".join(found)}. With --options '
        f'classes={NONE} they are not.'
    )
    return Layout(names, splits, notes)


def _without_common(folders: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without the folders that every path begins with."""
    first, last = min(folders.values()), max(folders.values())
    shared = 0
    while shared < len(first) and first[shared] == last[shared]:
        shared += 1
    return {path: parts[shared:] for path, parts in folders.items()}


def _why_no_classes(inner: dict[str, list[str]], patient_of: Callable[[str], str]) -> str:
    depths = sorted({len(parts) for parts in inner.values()})
    if depths != [1]:
        levels = f'{depths[0]} to {depths[-1]}' if depths[1:] else depths[0]
        return f'the images lie {levels} folders deep, not one'
    members = {}
    for path, (name,) in inner.items():
        members.setdefault(name, []).append(path)
    if all(len(paths) == 1 for paths in members.values()):
        return 'each holds one image only'
    if len({re.sub(r'\d+', '0', name) for name in members}) == 1 and max(map(len, members)) > 1:
        return 'their names differ in nothing but digits'
    if len(inner) < FEW * len(members):
        if all(re.search(r'\d', name) for name in members):
            return f'their names have digits and there are fewer than {FEW} images to a folder'
        if len(members) > MANY:
            return f'there are {len(members)} of them, with fewer than {FEW} images to a folder'
    if _one_patient_each(list(members.values()), patient_of):
        return 'the headers name one patient to a folder'
    return ''


def _one_patient_each(members: list[list[str]], patient_of: Callable[[str], str]) -> bool:
    n_folders, n_files = ASKED
    asked = [paths[:n_files] for paths in members if len(paths) > 1][:n_folders]
    patients = [{patient_of(path) for path in paths} for paths in asked]
    if any(len(own) > 1 or '' in own for own in patients):
        return False
    return len(set.union(*patients)) == len(patients)
