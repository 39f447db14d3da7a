"""The embedded data set: schedule, shortcut, files and layout."""
import ast
import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.raw.dicom import read_radiograph
from data_pipelines.synthetic import generate
from data_pipelines.synthetic.cases import Case, first_cases
from data_pipelines.synthetic.imaging import draw_phantom, draw_radiograph
from data_pipelines.synthetic.sites import SITES, marker_box

WEIGHTS = (0.3, 0.3, 0.2, 0.2)
SIZE = 96


def cramers_v(a: list, b: list) -> float:
    """0 for independent categories, 1 for a one-to-one relation."""
    table = np.zeros((max(a) + 1, max(b) + 1))
    np.add.at(table, (a, b), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi2 = ((table - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    return float(np.sqrt(chi2 / table.sum() / (min(table.shape) - 1)))


def relation(cases: list[Case], a: str, b: str, test_split: bool) -> float:
    chosen = [c for c in cases if (c.split == 'test') == test_split]
    return cramers_v([getattr(c, a) for c in chosen], [getattr(c, b) for c in chosen])


def files(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob('*'))
        if p.suffix in ('.dcm', '.png')
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


# ---- schedule ----


def test_class_mix_and_splits_are_balanced_from_the_start():
    cases = first_cases(650, 3, WEIGHTS)
    assert cases[:100] == first_cases(100, 3, WEIGHTS)
    patients = {c.patient: c for c in cases}
    assert len(cases) / len(patients) == pytest.approx(1.3, abs=0.02)
    by_class = Counter(c.label for c in patients.values())
    for label, weight in enumerate(WEIGHTS):
        members = [c for c in patients.values() if c.label == label]
        assert by_class[label] == pytest.approx(weight * len(patients), abs=3)
        splits = Counter(c.split for c in members)
        for split, part in (('train', 0.7), ('validation', 0.1), ('test', 0.2)):
            assert splits[split] == pytest.approx(part * len(members), abs=3)
    for c in cases:
        assert (c.label, c.split, c.site) == (
            patients[c.patient].label, patients[c.patient].split, patients[c.patient].site
        )  # fmt: skip
    assert len({c.uid('image') for c in cases}) == len(cases)
    assert len({c.uid('study') for c in cases}) < len(cases)


def test_without_shortcut_nothing_but_the_lesion_knows_the_label():
    cases = first_cases(6000, 5, WEIGHTS)
    assert all(c.marker == c.site for c in cases)
    for name in ('marker', 'site'):
        for test_split in (False, True):
            assert relation(cases, name, 'label', test_split) < 0.07
    assert cramers_v([int(c.view == 'AP') for c in cases], [c.label for c in cases]) < 0.07


def test_shortcut_ties_the_marker_in_training_but_not_in_test():
    full = first_cases(6000, 5, WEIGHTS, 1.0)
    assert all(c.marker == c.label for c in full if c.split != 'test')
    assert relation(full, 'marker', 'label', test_split=True) < 0.07
    assert relation(full, 'site', 'label', test_split=False) < 0.07
    half = first_cases(6000, 5, WEIGHTS, 0.5)
    chosen = [c for c in half if c.split != 'test']
    # Half are tied; of the others those agree whose site happens to have the label's number.
    chance = np.mean([c.site == c.label for c in chosen])
    agreeing = np.mean([c.marker == c.label for c in chosen])
    assert agreeing == pytest.approx(0.5 + 0.5 * chance, abs=0.03)


def test_shortcut_changes_pixels_at_the_markers_only():
    changed = 0
    for plain, tied in zip(
        first_cases(40, 1, WEIGHTS), first_cases(40, 1, WEIGHTS, 1.0), strict=True
    ):
        phantom = draw_phantom(plain, SIZE)
        before, after = draw_radiograph(plain, phantom), draw_radiograph(tied, phantom)
        outside = np.ones(before.shape, bool)
        for marker in (plain.marker, tied.marker):
            left, top, right, bottom = marker_box(marker, before.shape)
            outside[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = False
        np.testing.assert_array_equal(before[outside], after[outside])
        different = plain.marker != tied.marker
        assert (np.abs(before - after).max() > 0.2) == different
        changed += different
    assert changed >= 10


@pytest.fixture(scope='module')
def small_set(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('synthetic') / 'raw'
    generate(root, 30, seed=7, image_size=SIZE, processes=1)
    return root


def test_layout_is_that_of_the_competition(small_set):
    assert {p.name for p in small_set.iterdir()} == {
        'train', 'lung_masks', 'train_study_level.csv', 'train_image_level.csv', 'synthetic.json'
    }  # fmt: skip
    studies = table(small_set / 'train_study_level.csv')
    images = table(small_set / 'train_image_level.csv')
    assert list(studies[0]) == [
        'id', 'Negative for Pneumonia', 'Typical Appearance', 'Indeterminate Appearance',
        'Atypical Appearance',
    ]  # fmt: skip
    assert list(images[0]) == ['id', 'boxes', 'label', 'StudyInstanceUID']
    labels = {}
    for row in studies:
        assert re.fullmatch('[0-9a-f]{12}_study', row['id'])
        flags = list(row.values())[1:]
        assert sorted(flags) == ['0', '0', '0', '1']
        labels[row['id'].removesuffix('_study')] = flags.index('1')
    assert len(images) == 30 and set(labels) == {row['StudyInstanceUID'] for row in images}
    cases = {c.uid('image'): c for c in first_cases(30, 7, WEIGHTS)}
    for row in images:
        image = row['id'].removesuffix('_image')
        (path,) = small_set.glob(f'train/{row["StudyInstanceUID"]}/*/{image}.dcm')
        ds = pydicom.dcmread(path)
        assert (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID) == (
            path.parts[-3], path.parts[-2], image
        )  # fmt: skip
        assert str(ds.PatientName).startswith('SYNTHETIC^')
        assert ds.PatientID == cases[image].patient_id
        assert labels[row['StudyInstanceUID']] == cases[image].label
        mask = np.asarray(Image.open(small_set / 'lung_masks' / f'{image}.png'))
        assert mask.shape == (ds.Rows, ds.Columns) and set(np.unique(mask)) == {0, 255}
        if not row['boxes']:
            assert row['label'] == 'none 1 0 0 1 1'
            assert cases[image].label == 0 or not cases[image].annotated
            continue
        boxes = ast.literal_eval(row['boxes'])
        corners = np.array(row['label'].replace('opacity 1', '').split(), float).reshape(-1, 4)
        expected = [[b['x'], b['y'], b['x'] + b['width'], b['y'] + b['height']] for b in boxes]
        np.testing.assert_allclose(corners, expected, atol=2e-5)
        assert (corners[:, 2] <= ds.Columns).all() and (corners[:, 3] <= ds.Rows).all()


def test_sites_store_in_their_own_ways_and_read_back_alike(small_set):
    seen = set()
    for case in first_cases(30, 7, WEIGHTS):
        (path,) = small_set.glob(f'train/*/*/{case.uid("image")}.dcm')
        drawn = draw_radiograph(case, draw_phantom(case, SIZE))
        read = read_radiograph(path)
        assert np.abs(read.pixels - drawn).max() < 0.6 / 1023
        assert read.header['source'] == SITES[case.site].name
        assert (read.header['view'], read.header['sex']) == (case.view, case.sex)
        seen.add((read.header['bits'], read.header['photometric']))
    assert {(10, 'MONOCHROME1'), (12, 'MONOCHROME2'), (14, 'MONOCHROME2')} <= seen


def test_images_do_not_depend_on_processes_or_number(small_set, tmp_path):
    generate(tmp_path / 'raw', 20, seed=7, image_size=SIZE, processes=2)
    fewer, more = files(tmp_path / 'raw'), files(small_set)
    assert len(fewer) == 40 and fewer.items() <= more.items()
    generate(tmp_path / 'raw', 30, seed=7, image_size=SIZE, processes=1)
    assert files(tmp_path / 'raw') == more
    generate(tmp_path / 'other', 5, seed=8, image_size=SIZE, processes=1)
    assert not set(files(tmp_path / 'other')) & set(more)


def test_a_stopped_run_continues(tmp_path):
    root = tmp_path / 'raw'
    generate(root, 6, seed=1, image_size=SIZE, processes=1)
    complete = files(root)
    pictures = sorted(root.glob('train/*/*/*.dcm'))
    kept = {p: p.stat().st_mtime_ns for p in pictures[1:]}
    pictures[0].unlink()
    (pictures[0].parent / f'.{pictures[0].name}.tmp').write_bytes(b'half a file')
    tables = {p.name: p.read_bytes() for p in root.glob('*.csv')}
    for path in root.glob('*.csv'):
        path.unlink()
    note = json.loads((root / 'synthetic.json').read_text())
    del note['n_images']
    (root / 'synthetic.json').write_text(json.dumps(note))
    generate(root, 6, seed=1, image_size=SIZE, processes=1)
    assert files(root) == complete
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert {p.name: p.read_bytes() for p in root.glob('*.csv')} == tables
    assert not list(root.rglob('.*.tmp'))


def test_splits_are_prescribed_only_with_a_shortcut(small_set, tmp_path):
    assert not (small_set / 'splits.csv').exists()
    generate(tmp_path / 'raw', 12, seed=7, shortcut=0.8, image_size=SIZE, processes=1)
    rows = {row['patient']: row['split'] for row in table(tmp_path / 'raw' / 'splits.csv')}
    assert rows == {c.patient_id: c.split for c in first_cases(12, 7, WEIGHTS)}


def test_wrong_arguments_and_folders_are_refused(small_set, tmp_path):
    for wrong in (
        {'n_images': 0}, {'shortcut': 1.5}, {'class_weights': (1, 1)}, {'image_size': 8}
    ):  # fmt: skip
        with pytest.raises(UserError):
            generate(**{'directory': tmp_path / 'a', 'n_images': 3, 'seed': 0, **wrong})
    with pytest.raises(UserError, match='differs'):
        generate(small_set, 30, seed=8, image_size=SIZE, processes=1)
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'cat.jpg').write_bytes(b'')
    with pytest.raises(UserError, match='not empty'):
        generate(tmp_path / 'photos', 3, seed=0, processes=1)
