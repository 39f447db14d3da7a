"""Evenly spaced slices of any folder of volumes: what ct_slices and mri_slices have in common.

    <source>/<patient>/.../*.nii, .nii.gz, .mhd         each file is a volume
    <source>/<patient>/.../<series>/*                   DICOM, one slice in a file: one volume
    <source>/patients.csv    optional: file (the volume's path below the source), patient

DICOM is recognised by content. Without patients.csv the patient is the first folder, or for a file
directly in the source the file.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder, read_table
from data_pipelines.errors import UserError
from data_pipelines.raw.dicom_pixels import UnreadableRadiograph
from data_pipelines.raw.volume import Piece, Volume
from data_pipelines.raw.volume_files import SUFFIXES, open_volume
from data_pipelines.raw.volume_series import is_dicom

# Slices are across z unless another axis is that much coarser: then across that one, as acquired.
MUCH_COARSER = 2


def list_slices(
    source: Path, slices: int, window: tuple[float, float] | None, modality: str
) -> Listing:
    """At most `slices` slices of each patient, evenly spaced over all volumes of the patient.

    DICOM series of another modality than this ('CT' or 'MR') and what is no readable volume are
    rejected. UserError.
    """
    existing_folder(source)
    if slices < 1:
        raise UserError(f'--options slices={slices} must be at least 1.')
    found = _volumes(source)
    if not found:
        raise UserError(
            f'No volume ({", ".join(SUFFIXES)}, or a folder of DICOM files) lies below {source}.'
        )
    notes, rejected, of_patient = [], [], defaultdict(list)
    patients = _patients(source, [_name(path, source) for path in found], notes)
    for path in found:
        name = _name(path, source)
        if path == source:
            rejected.append((name, 'DICOM files of a series must lie in a folder of their own'))
            continue
        try:
            volume = open_volume(path)
        except UnreadableRadiograph as error:
            rejected.append((name, str(error)))
            continue
        if volume.modality not in ('', modality):
            rejected.append((name, f'its modality is {volume.modality[:16]}, not {modality}'))
            continue
        axis = _axis(volume)
        whole = Piece(0, volume.state, window, axis)
        of_patient[patients[name]].append((path, name, volume.shape[axis], whole))
    items = [
        _item(*chosen, patient)
        for patient, volumes in of_patient.items()
        for chosen in _evenly_spaced(volumes, slices)
    ]
    return Listing(items, (), rejected=rejected, notes=notes)


def checked_window(low: float, high: float) -> tuple[float, float]:
    """UserError unless low < high."""
    if not low < high:
        raise UserError(f'--options low={low} high={high}: low must be less than high.')
    return low, high


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """The numbers in the middle of `wanted` equal parts of 0 to count - 1; all if fewer."""
    wanted = min(count, wanted)
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def _evenly_spaced(volumes: Sequence[tuple], wanted: int) -> list[tuple[Path, str, Piece]]:
    """(path, name, piece) of slices that are evenly spaced over volumes laid end to end."""
    every = [
        (path, name, whole, number)
        for path, name, count, whole in volumes
        for number in range(count)
    ]
    chosen = (every[k] for k in evenly_spaced(len(every), wanted))
    return [
        (path, name, Piece(number, whole.state, whole.window, whole.axis))
        for path, name, whole, number in chosen
    ]


def _item(path: Path, name: str, piece: Piece, patient: str) -> Item:
    return Item(
        path=path,
        relative=f'{name}#{"zyx"[piece.axis]}{piece.number:03d}',
        patient=patient,
        piece=piece,
        columns={'slice': piece.number, 'plane': ('axial', 'coronal', 'sagittal')[piece.axis]},
    )


def _axis(volume: Volume) -> int:
    z, *others = volume.spacing
    coarsest = max(others)
    return 1 + others.index(coarsest) if coarsest >= MUCH_COARSER * z else 0


def _name(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix()


def _volumes(source: Path) -> list[Path]:
    """Files, and folders below the source that hold DICOM files, in the order of their paths."""
    found = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith('.')]
        found += (path for path in files if path.name.endswith(SUFFIXES))
        others = (path for path in files if not path.name.endswith((*SUFFIXES, '.raw', '.zraw')))
        if any(is_dicom(path) for path in others):
            found.append(Path(folder))
    return sorted(found)


def _patients(source: Path, names: Sequence[str], notes: list[str]) -> dict[str, str]:
    """{name of a volume: its patient}."""
    patients = {name: name.split('/')[0] for name in names}
    table = source / 'patients.csv'
    if table.is_file():
        given = {row['file']: row['patient'] for row in read_table(table, ('file', 'patient'))}
        named = {name: given[name] for name in names if given.get(name)}
        if len(named) < len(names):
            notes.append(
                f'{len(names) - len(named)} of {len(names)} volumes have no row in {table.name}: '
                'their first folder is taken as the patient.'
            )
        patients |= named
    return patients
