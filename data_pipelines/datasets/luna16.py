"""LUNA16: patches around candidates for lung nodules in CT, exactly as the archives unpack.

    <source>/subset0 .. subset9/<seriesuid>.mhd and .raw   the ten official folds, any of them
    <source>/candidates_V2.csv                             seriesuid, coordX, coordY, coordZ, class

Coordinates are mm of the patient. candidates.csv, without V2, is superseded and is not read.
"""

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from data_pipelines.datasets.base import Item, Listing, existing_folder, number, one_of, read_table
from data_pipelines.datasets.volume_slices import checked_window
from data_pipelines.errors import UserError
from data_pipelines.raw.dicom_pixels import UnreadableRadiograph
from data_pipelines.raw.volume import Piece, Volume
from data_pipelines.raw.volume_files import open_volume

CLASSES = ('nodule', 'other')
FOLDS = 10
TABLE = 'candidates_V2.csv'
COORDINATES = ('coordX', 'coordY', 'coordZ')

LICENCE = 'CC BY 4.0 (LUNA16, from LIDC-IDRI)'


def list_items(
    source: Path, *,
    negatives: float = 0.1, side: int = 64, low: float = -1000.0, high: float = 1400.0,
    test_fold: str = '9', validation_fold: str = '8',
) -> Listing:  # fmt: skip
    """A patch of `side` x `side` voxels of the scan's own slice around each candidate.

    All nodules, and of the others the share `negatives`, always the same ones. `low` and `high` HU
    become 0 and 1. `test_fold` and `validation_fold` are subsets, several as in 8,9; '': none.
    """
    existing_folder(source)
    window = checked_window(low, high)
    if not 0 <= negatives <= 1 or side < 8:
        raise UserError(
            f'--options negatives={negatives} side={side}: negatives must be from 0 to 1, side at '
            'least 8.'
        )
    scans, there = _scans(source)
    splits = _splits(there, test_fold, validation_fold)
    candidates, notes = _candidates(source / TABLE, scans, there, negatives)
    items, rejected = [], []
    for scan, rows in candidates.items():
        fold, path = scans[scan]
        relative = path.relative_to(source).as_posix()
        try:
            volume = open_volume(path)
        except UnreadableRadiograph as error:
            rejected.append((relative, str(error)))
            continue
        for line, row in rows:
            name = f'{relative}#candidate{line}'
            z, y, x = _voxel(volume, row, source / TABLE)
            if not all(0 <= at < n for at, n in zip((z, y, x), volume.shape, strict=True)):
                rejected.append((name, 'the candidate lies outside the scan'))
                continue
            items.append(
                Item(
                    path=path,
                    relative=name,
                    labels=one_of(CLASSES, 'nodule' if row['class'] == '1' else 'other'),
                    patient=scan,
                    study=scan,
                    split=splits.get(fold, ''),
                    piece=Piece(z, volume.state, window, centre=(y, x), side=side),
                    columns={'fold': fold},
                )
            )
    return Listing(items, CLASSES, rejected=rejected, notes=notes)


def _scans(source: Path) -> tuple[dict[str, tuple[int, Path]], list[int]]:
    """({seriesuid: (fold, its .mhd)}, the folds that are there)."""
    there = [fold for fold in range(FOLDS) if (source / f'subset{fold}').is_dir()]
    if not there:
        raise UserError(
            f'{source} has no folder subset0, ..., subset9. Unpack the archives so that the scans '
            f'lie in {source / "subset0"}/<seriesuid>.mhd and so on.'
        )
    return {
        path.stem: (fold, path)
        for fold in there
        for path in sorted((source / f'subset{fold}').glob('*.mhd'))
    }, there


def _splits(there: list[int], test_fold: str, validation_fold: str) -> dict[int, str]:
    """{fold: its split}; {} if none is chosen, then the splits are drawn. UserError."""
    chosen = {}
    for split, text in (('test', test_fold), ('validation', validation_fold)):
        for cell in filter(None, text.split(',')):
            fold = int(cell) if cell.strip().isdigit() else -1
            if fold not in there or fold in chosen:
                raise UserError(
                    f'--options {split}_fold={text}: the subset {cell} is not there, or is used '
                    f'twice. There are {", ".join(map(str, there))}. Choose others, or none with '
                    'test_fold= validation_fold= (the splits are then drawn by scan).'
                )
            chosen[fold] = split
    return {fold: 'train' for fold in there} | chosen if chosen else {}


def _candidates(
    table: Path, scans: dict, there: list[int], negatives: float
) -> tuple[dict[str, list[tuple[int, dict]]], list[str]]:
    """({seriesuid: [(number of the row from 0, row)]} of scans that are there, notes)."""
    result, missing, left_out = defaultdict(list), set(), 0
    others = drawn = 0
    for line, row in enumerate(read_table(table, ('seriesuid', *COORDINATES, 'class'))):
        if row['seriesuid'] not in scans:
            missing.add(row['seriesuid'])
            left_out += 1
            continue
        if row['class'] not in ('0', '1'):
            raise UserError(
                f'{table} has the class {row["class"]!r}; it must be 1 (nodule) or 0. Check that '
                'it is the unchanged file of the data set.'
            )
        if row['class'] == '0':
            others += 1
            if _draw(row) >= negatives:
                continue
            drawn += 1
        result[row['seriesuid']].append((line, row))
    notes = [f'{drawn} of {others} candidates that are no nodule are drawn, negatives={negatives}.']
    if missing:
        absent = [str(fold) for fold in range(FOLDS) if fold not in there]
        of = f'the subsets {", ".join(absent)} are not there' if absent else 'all subsets are there'
        notes.append(
            f'{left_out} candidates of {len(missing)} scans that are not there are left out; {of}.'
        )
    # In the order of the scans, so that the order of the table's rows changes nothing.
    return {scan: result[scan] for scan in scans if scan in result}, notes


def _draw(row: dict[str, str]) -> float:
    """In [0, 1), from what the row says and nothing else: a larger share contains a smaller one."""
    said = ' '.join(('luna16', row['seriesuid'], *(row[name] for name in COORDINATES)))
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], 'big') / 2**64


def _voxel(volume: Volume, row: dict[str, str], table: Path) -> tuple[int, int, int]:
    """The nearest voxel (z, y, x) of a candidate."""
    x, y, z = world = [number(row[name]) for name in COORDINATES]
    if not np.isfinite(world).all():
        raise UserError(
            f'{table}: a candidate of {row["seriesuid"]} has a coordinate that is no number. Check '
            'that it is the unchanged file of the data set.'
        )
    voxel = (np.array((z, y, x)) - volume.origin) / volume.spacing
    return tuple(int(at) for at in np.rint(voxel))
