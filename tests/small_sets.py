"""Four prepared sets of tiny images in one data folder, with what must not be trained on in them.

    a    30 images without labels, no patients known but one: bright, with lung masks
    b    20 images without labels, of patients b0 .. b19
    c    60 patients, two images each: one of two classes, told apart by which half is brighter, or
         (every sixth patient to train on) no label; with lung masks. Patients c0 .. c41 to train
         on, c42 .. c47 to validate, c48 .. c59 to test
    f    40 patients, one image each, with two findings that may be there together, uncertain or
         not said; split 24, 4, 12

In `a` and `b` lie images of patients of `c` and copies of its images: PLANTED tells what of them is
left out.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.prepare import prepare

SIZE = 40
CLASSES = ('left', 'right')
FINDINGS = ('effusion', 'mass')
# Set -> (images of held-out patients, copies of held-out images), and their names: see _plant.
PLANTED = {'a': (1, 2), 'b': (2, 1)}
HELD_OUT = ('a0.png', 'a1.png', 'a2.png', 'b0.png', 'b2.png', 'b3.png')


def prepare_all(folder: Path) -> Path:
    """Draws and prepares the sets; returns the data folder."""
    raw, data_dir = folder / 'raw', folder / 'data'
    _draw_c(raw / 'c')
    _draw_unlabelled(raw)
    _plant(raw)
    _draw_f(raw / 'f')
    for name, splits in (('a', 'none'), ('b', 'none'), ('c', 'given'), ('f', 'given')):
        prepare('image_folder', raw / name, data_dir, SIZE, processes=1, name=name, splits=splits)
    return data_dir


def raw_folder(prepared) -> Path:
    return prepared.data_dir.parent / 'raw' / prepared.name


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def split_of(patient: int, ends: tuple[int, int]) -> str:
    return 'train' if patient < ends[0] else 'validation' if patient < ends[1] else 'test'


def image(seed: str, brighter: slice | None = None, level: int = 60) -> np.ndarray:
    """Noise about a level, uint8 [SIZE, SIZE], brighter in some columns."""
    rng = np.random.default_rng(list(seed.encode()))
    pixels = rng.integers(level - 30, level + 30, (SIZE, SIZE))
    if brighter is not None:
        pixels[:, brighter] += 90
    return pixels.astype(np.uint8)


def _save(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def _write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        table.writeheader()
        table.writerows(rows)


def _save_mask(folder: Path, name: str) -> str:
    """A lung mask whose area differs from image to image, as a path in the table."""
    height = 10 + len(name) + sum(name.encode()) % 15
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[4 : 4 + height, 6:18] = mask[4 : 4 + height, 22:34] = 255
    _save(folder / 'lung_masks', name, mask)
    return f'lung_masks/{name}'


def _draw_c(folder: Path) -> None:
    rows, splits = [], []
    for patient in range(60):
        number = patient % 2
        half = slice(20) if number == 0 else slice(20, None)
        split = split_of(patient, (42, 48))
        unlabelled = split == 'train' and patient % 6 == 5
        for view in range(2):
            name = f'c{patient}-{view}.png'
            _save(folder, name, image(name, half))
            rows.append({
                'file': name, 'patient': f'c{patient}',
                'label': '' if unlabelled else CLASSES[number],
                'lung_mask': _save_mask(folder, name),
            })  # fmt: skip
        splits.append({'patient': f'c{patient}', 'split': split})
    _write(folder / 'metadata.csv', rows)
    _write(folder / 'splits.csv', splits)


def _draw_unlabelled(raw: Path) -> None:
    for k in range(30):
        _save(raw / 'a', f'a{k}.png', image(f'a{k}', level=160))
    for k in range(20):
        _save(raw / 'b', f'b{k}.png', image(f'b{k}', level=110))
    # Named as a tested image of c is, and no copy of it.
    (raw / 'b' / 'b4.png').rename(raw / 'b' / 'c48-1.png')


def _plant(raw: Path) -> None:
    """Images of patients of c, and copies of its images; of those to train on, all may stay."""
    of_a = {f'a{k}.png': '' for k in range(30)}
    of_b = {f'b{k}.png': f'b{k}' for k in range(20) if k != 4} | {'c48-1.png': ''}

    def copy(source: str, folder: Path, name: str) -> None:
        (folder / name).write_bytes((raw / 'c' / source).read_bytes())

    of_a['a0.png'] = 'c50'  # tested
    copy('c48-0.png', raw / 'a', 'a1.png')  # tested
    copy('c45-1.png', raw / 'a', 'a2.png')  # validated
    copy('c3-0.png', raw / 'a', 'a3.png')  # trained on
    of_b['b0.png'] = 'c42'  # validated
    of_b['b1.png'] = 'c1'  # trained on
    copy('c59-0.png', raw / 'b', 'b2.png')  # tested, of another patient by name
    copy('c44-0.png', raw / 'b', 'b3.png')
    of_b['b3.png'] = 'c44'  # patient and pixels: counts once
    for name, table in (('a', of_a), ('b', of_b)):
        rows = [{'file': file, 'patient': patient} for file, patient in table.items()]
        if name == 'a':
            rows = [row | {'lung_mask': _save_mask(raw / 'a', row['file'])} for row in rows]
        _write(raw / name / 'metadata.csv', rows)


def _draw_f(folder: Path) -> None:
    rows, splits = [], []
    for patient in range(40):
        shown = patient % 2, patient // 2 % 2
        pixels = image(f'f{patient}', slice(20) if shown[0] else None)
        pixels[:20, 20:] += 90 * shown[1]
        name = f'f{patient}.png'
        _save(folder, name, pixels)
        cells = [str(said) for said in shown]
        if patient % 8 == 3:
            cells[0] = '-1'
        if patient % 8 == 6:
            cells[1] = ''
        if patient == 7:
            cells = ['', '']
        columns = {f'finding:{FINDINGS[k]}': cells[k] for k in range(2)}
        rows.append({'file': name, 'patient': f'f{patient}'} | columns)
        splits.append({'patient': f'f{patient}', 'split': split_of(patient, (24, 28))})
    _write(folder / 'metadata.csv', rows)
    _write(folder / 'splits.csv', splits)
