"""From a miniature SIIM tree or image folder to records: truth, privacy, crashes, repetition."""
import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import ingest, publish
from data_pipelines import prepare as prepare_module
from data_pipelines.card import cramers_v
from data_pipelines.datasets import image_folder, siim_covid19
from data_pipelines.datasets.base import Item
from data_pipelines.errors import UserError
from data_pipelines.loader import open_prepared
from data_pipelines.prepare import main, prepare
from data_pipelines.records import Entry
from tests.dicom_files import dataset
from tests.siim_tree import (
    CLASSES,
    HEIGHT,
    STUDY_DATE,
    WIDTH,
    die_on_the_second_patient,
    expected_image,
    write_siim_tree,
    write_tables,
)

SIZE = 16


@pytest.fixture(scope='module')
def truths_and_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('siim')
    truths = write_siim_tree(root / 'raw')
    return truths, root / 'raw', prepare_siim(root / 'raw', root / 'data')


def prepare_siim(raw, data_dir, size=SIZE, processes=1, **settings):
    return prepare('siim_covid19', raw, data_dir, size=size, processes=processes, **settings)


def stored_records(prepared):
    """All records with their split, as TFDS itself decodes them."""
    builder = tfds.builder_from_directory(str(prepared.directory / '1.0.0'))
    return [
        record | {'split': split}
        for split in prepared.counts
        for record in builder.as_data_source(split)
    ]


def by_pixels(prepared):
    return {record['image'].tobytes(): record for record in stored_records(prepared)}


def expected_bytes(truth):
    return expected_image(truth, SIZE).astype(np.uint8).tobytes()


def test_records_tell_the_truth(truths_and_data):
    truths, _, prepared = truths_and_data
    records = by_pixels(prepared)
    assert len(records) == len(truths) == sum(prepared.counts.values())
    patients, studies = {}, {}
    for truth in truths:
        record = records[expected_bytes(truth)]
        assert record['label'] == truth.label and prepared.classes == CLASSES
        assert record['sex'].decode() == truth.sex and record['view'].decode() == truth.view
        assert record['source'].decode() == truth.site and record['age'] == truth.age
        assert record['original_size'].tolist() == [HEIGHT, WIDTH]
        np.testing.assert_allclose(record['spacing'], 0.5 * HEIGHT / SIZE)
        assert json.loads(record['columns']) == {}
        assert patients.setdefault(truth.patient, record['patient']) == record['patient']
        assert studies.setdefault(truth.study, record['study']) == record['study']
    assert len(set(patients.values())) == len({truth.patient for truth in truths})
    assert len({record['image_id'] for record in records.values()}) == len(truths)


def test_masks_and_boxes_move_with_the_image(truths_and_data):
    truths, _, prepared = truths_and_data
    records, step, left = by_pixels(prepared), HEIGHT // SIZE, (HEIGHT - WIDTH) // 2
    assert prepared.has_lung_masks
    for truth in truths:
        record = records[expected_bytes(truth)]
        # The mask's edges lie on multiples of the step, so nearest is exact.
        mask = np.pad(truth.mask, ((0, 0), (left, left)))[::step, ::step]
        np.testing.assert_array_equal(record['lung_mask'][..., 0], mask)
        boxes = np.array(truth.boxes, float).reshape(-1, 4)
        np.testing.assert_allclose(record['boxes'], (boxes + [left, 0, 0, 0]) / step)


def test_pixels_that_are_not_square(tmp_path):
    """A rectangle drawn into the image, its mask and its box stay one, and become square."""
    grey = np.zeros((40, 80), int)
    grey[10:20, 40:60] = 4095  # 10 x 20 pixels of 1.0 x 0.5 mm
    dataset(grey, PixelSpacing=[1.0, 0.5]).save_as(tmp_path / 'a.dcm', enforce_file_format=True)
    Image.fromarray((grey > 0).astype(np.uint8) * 255).save(tmp_path / 'a.png')
    item = Item(
        tmp_path / 'a.dcm', 'a.dcm', boxes=((40, 10, 20, 10),), lung_mask=tmp_path / 'a.png'
    )
    task = ingest.make_task(item, 20, 8, tmp_path)
    assert ingest.prepare_file(task) == ''
    prepared = ingest.load(task.result)
    np.testing.assert_array_equal(prepared.image, prepared.lung_mask * 255)
    ((x, y, w, h),) = Entry(item, prepared.meta).boxes
    assert (x, y, w, h) == (10, 5, 5, 5) and prepared.lung_mask.sum() == 25
    assert prepared.lung_mask[5:10, 10:15].all()
    assert prepared.meta['spacing'] == [2.0, 2.0]


def test_splits_are_by_patient_and_written_down(truths_and_data):
    truths, _, prepared = truths_and_data
    assert prepared.has_patient_ids and not prepared.card['warnings']
    with (prepared.directory / 'splits.csv').open() as file:
        table = {row['image_id']: row for row in csv.DictReader(file)}
    split_of = {}
    for record in stored_records(prepared):
        row = table[record['image_id'].decode()]
        assert row['patient'] == record['patient'].decode()
        assert row['label'] == CLASSES[record['label']] and row['split'] == record['split']
        assert split_of.setdefault(record['patient'], record['split']) == record['split']
    assert len(table) == len(truths)


def test_sixteen_bits(truths_and_data, tmp_path):
    truths, raw, _ = truths_and_data
    prepared = prepare_siim(raw, tmp_path, size=32, bits=16)
    assert prepared.bits == 16
    images = np.stack([record['image'][..., 0] for record in stored_records(prepared)])
    assert images.dtype == np.uint16 and len(images) == len(truths)
    for truth in truths:
        difference = np.abs(images - expected_image(truth, 32, 16)).max((1, 2))
        assert difference.min() <= 1  # float32 knows 16 bits to half a step


def test_statistics_equal_numpy(truths_and_data):
    _, _, prepared = truths_and_data
    train = [record for record in stored_records(prepared) if record['split'] == 'train']
    x = np.stack([record['image'] for record in train]) / 255
    lungs = np.stack([record['lung_mask'] for record in train]) == 1
    regions = {
        'full': x,
        'lungs_black': np.where(lungs, x, 0),
        'lungs_gray': np.where(lungs, x, x.mean()),
        'background': np.where(lungs, 0, x),
    }
    assert prepared.statistics.keys() == regions.keys()
    for name, pixels in regions.items():
        assert prepared.statistics[name]['mean'] == pytest.approx(pixels.mean(), rel=1e-9)
        assert prepared.statistics[name]['std'] == pytest.approx(pixels.std(), rel=1e-9)


def test_card_counts(truths_and_data):
    truths, _, prepared = truths_and_data
    card, records = prepared.card, stored_records(prepared)
    assert sum(row['images'] for row in card['composition']) == len(truths)
    for row in card['composition']:
        matching = [
            r
            for r in records
            if (CLASSES[r['label']], r['split']) == (row['class'], row['split'])
            and all(r[k].decode() == row[k] for k in ('sex', 'view', 'source'))
        ]
        assert len(matching) == row['images'] > 0
    for split, n in prepared.counts.items():
        assert n == sum(prepared.class_counts[split])
        own = {r['patient'] for r in records if r['split'] == split}
        assert card['patients'][split] == len(own)
    assert card['raw_files']['photometric'] == {
        'MONOCHROME1': sum(truth.label == 1 for truth in truths),
        'MONOCHROME2': sum(truth.label != 1 for truth in truths),
    }
    assert card['duplicates']['extra_copies'] == 0


def test_cramers_v_closed_forms():
    assert cramers_v([0] * 50 + [1] * 50, ['a'] * 50 + ['b'] * 50) == pytest.approx(1)
    assert cramers_v([0, 0, 1, 1] * 25, ['a', 'b'] * 50) == 0  # independent
    # 2 x 2: V**2 is phi**2, corrected: (phi**2 - 1/(n-1)) / (1 - 1/(n-1)).
    first, second = [0] * 40 + [1] * 60, [0] * 30 + [1] * 10 + [0] * 15 + [1] * 45
    phi = np.corrcoef(first, second)[0, 1]
    assert cramers_v(first, second) ** 2 == pytest.approx((phi**2 - 1 / 99) / (1 - 1 / 99))
    assert cramers_v([0, 1, 2], ['same'] * 3) == 0


def test_no_identity_reaches_the_prepared_folder(truths_and_data):
    truths, raw, prepared = truths_and_data
    secrets = {STUDY_DATE, '19510607', 'ACC-4711', 'Doe^', 'Patient-', str(raw)}
    secrets |= {truth.image for truth in truths} | {truth.study for truth in truths}
    files = [path for path in prepared.directory.rglob('*') if path.is_file()]
    assert any('array_record' in path.name for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path.name
    data_dir = prepared.directory.parents[1]
    assert (data_dir / '.salt').stat().st_mode & 0o777 == 0o600
    assert (data_dir / '.cache').stat().st_mode & 0o777 == 0o700


def test_same_everywhere_except_the_pseudonyms(truths_and_data, tmp_path):
    _, raw, prepared = truths_and_data
    shutil.copytree(raw, tmp_path / 'elsewhere', copy_function=shutil.copyfile)  # new mtimes
    other = prepare_siim(tmp_path / 'elsewhere', tmp_path / 'data')
    assert other.fingerprint == prepared.fingerprint
    pairs = zip(stored_records(prepared), stored_records(other), strict=True)
    for first, second in pairs:
        assert first['split'] == second['split']
        np.testing.assert_array_equal(first['image'], second['image'])
        assert first['image_id'] != second['image_id'] and first['patient'] != second['patient']
    reseeded = prepare_siim(tmp_path / 'elsewhere', tmp_path / 'data', seed=1)
    assert reseeded.fingerprint != prepared.fingerprint


def break_files(root, truths):
    """Damage four files in four ways; {relative path: what the reason must say}."""
    text, short, colour, extra = (truth.path for truth in truths[:4])
    (root / text).write_text('not a radiograph')
    (root / short).write_bytes((root / short).read_bytes()[:-1000])
    ds = dataset(np.zeros((8, 24), int), bits=8)
    ds.Columns, ds.SamplesPerPixel, ds.PlanarConfiguration = 8, 3, 0
    ds.PhotometricInterpretation = 'RGB'
    ds.save_as(root / colour, enforce_file_format=True)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(
        root / 'lung_masks' / f'{truths[3].image}.png'
    )
    (root / 'train/x/y').mkdir(parents=True)
    (root / 'train/x/y/unlisted.dcm').write_text('')
    return {text: '', short: '', colour: '', extra: '5 x 5', 'train/x/y/unlisted.dcm': 'not listed'}


def test_broken_files_are_set_aside(tmp_path, capsys):
    truths = write_siim_tree(tmp_path / 'raw')
    broken = break_files(tmp_path / 'raw', truths)
    arguments = ['--dataset', 'siim_covid19', '--source', str(tmp_path / 'raw')]
    arguments += ['--data_dir', str(tmp_path / 'data'), '--size', str(SIZE), '--processes', '1']
    assert main(arguments) == 3
    assert 'set aside: 5 files' in capsys.readouterr().out
    prepared = open_prepared(tmp_path / 'data', 'siim_covid19', SIZE)
    with (prepared.directory / 'quarantine.csv').open() as file:
        reasons = {row['file']: row['reason'] for row in csv.DictReader(file)}
    assert reasons.keys() == broken.keys()
    for path, expected in broken.items():
        assert expected in reasons[path] and reasons[path]
    good = {expected_bytes(truth) for truth in truths if truth.path not in broken}
    assert set(by_pixels(prepared)) == good
    assert main(arguments) == 3  # and nothing to do


def test_a_dying_process_costs_one_file(tmp_path, monkeypatch):
    truths = write_siim_tree(tmp_path / 'raw')
    monkeypatch.setattr(prepare_module.ingest, 'prepare_file', die_on_the_second_patient)
    prepared = prepare_siim(tmp_path / 'raw', tmp_path / 'data', processes=2)
    lines = (prepared.directory / 'quarantine.csv').read_text().splitlines()
    assert len(lines) == 2 and truths[2].path in lines[1] and 'SIGKILL' in lines[1]
    assert sum(prepared.counts.values()) == len(truths) - 1


def test_running_again_does_only_what_is_missing(tmp_path, monkeypatch):
    truths = write_siim_tree(tmp_path / 'raw')
    write_tables(tmp_path / 'raw', truths[:-1])
    held_back = tmp_path / 'raw' / truths[-1].path
    held_back.rename(tmp_path / 'held_back.dcm')
    first = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    written = {p: p.stat().st_mtime_ns for p in first.directory.rglob('*') if p.is_file()}
    decoded = []

    def watch(function, tasks, processes):
        tasks = list(tasks)
        decoded.extend(task.relative for task in tasks)
        return original(function, tasks, processes)

    original = prepare_module.map_isolated
    monkeypatch.setattr(prepare_module, 'map_isolated', watch)
    again = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    assert again.fingerprint == first.fingerprint and not decoded
    assert written == {p: p.stat().st_mtime_ns for p in written}

    (tmp_path / 'held_back.dcm').rename(held_back)
    write_tables(tmp_path / 'raw', truths)
    more = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    assert decoded == [truths[-1].path]
    assert sum(more.counts.values()) == len(truths)
    assert more.fingerprint != first.fingerprint


KILL = """
import os, sys
from data_pipelines import publish
from data_pipelines.prepare import prepare
calls = 0
def dying(*args):
    global calls
    calls += 1
    return original(*args) if calls <= 10 else os._exit(9)
original, publish.make_record = publish.make_record, dying
prepare('siim_covid19', sys.argv[1], sys.argv[2], size=16, processes=1)
"""


def test_a_killed_run_leaves_nothing_that_opens(truths_and_data, tmp_path):
    _, raw, prepared = truths_and_data
    program = [sys.executable, '-c', KILL, str(raw), str(tmp_path)]
    assert subprocess.run(program, stderr=subprocess.DEVNULL).returncode == 9
    assert (tmp_path / 'siim_covid19').exists()
    with pytest.raises(UserError, match='no prepared set'):
        open_prepared(tmp_path, 'siim_covid19', SIZE)
    finished = prepare_siim(raw, tmp_path)
    assert finished.fingerprint == prepared.fingerprint
    assert not list((tmp_path / 'siim_covid19').glob('.*'))


def test_a_run_killed_at_the_card_keeps_the_old_set(truths_and_data, tmp_path, monkeypatch):
    _, raw, _ = truths_and_data
    old = prepare_siim(raw, tmp_path)

    def interrupted(card):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publish.card_module, 'markdown', interrupted)
        prepare_siim(raw, tmp_path, seed=1)
    assert open_prepared(tmp_path, 'siim_covid19', SIZE).fingerprint == old.fingerprint


def test_given_splits_are_honoured(truths_and_data, tmp_path):
    truths, raw, _ = truths_and_data
    shutil.copytree(raw, tmp_path / 'raw')
    wanted = {t.patient: ('train', 'test', 'validation')[int(t.patient[8:12]) % 3] for t in truths}
    lines = [f'{patient},{split}' for patient, split in wanted.items()]
    (tmp_path / 'raw' / 'splits.csv').write_text('\n'.join(['patient,split', *lines]))
    prepared = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    records = by_pixels(prepared)
    assert all(records[expected_bytes(t)]['split'] == wanted[t.patient] for t in truths)
    (tmp_path / 'raw' / 'splits.csv').write_text('\n'.join(['patient,split', *lines[1:]]))
    with pytest.raises(UserError, match='does not name the patients of 2 of'):
        prepare_siim(tmp_path / 'raw', tmp_path / 'data')


def write_png(path, value, shape=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_flat_folder_has_no_labels_and_no_patients(tmp_path, capsys):
    for value in range(9):
        write_png(tmp_path / 'raw' / f'{value}.png', 20 * value)
    write_png(tmp_path / 'raw' / 'copy.png', 20)
    prepared = prepare('image_folder', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)
    assert prepared.classes == () and prepared.class_counts['train'] == []
    assert not prepared.has_patient_ids and not prepared.has_lung_masks
    assert list(prepared.statistics) == ['full']
    assert {record['label'] for record in stored_records(prepared)} == {-1}
    assert 'No patient id is known for 10 of 10' in prepared.card['warnings'][0]
    assert 'No patient id' in (prepared.directory / 'card.md').read_text()
    assert prepared.card['duplicates']['extra_copies'] == 1
    with pytest.raises(UserError, match='another source folder'):
        write_png(tmp_path / 'other' / '0.png', 0)
        prepare('image_folder', tmp_path / 'other', tmp_path / 'data', size=8)


def test_class_folders_with_metadata(tmp_path):
    for name in ('b/1.png', 'b/2.PNG', 'a/3.jpg', 'a/.hidden.png', 'a/notes.txt'):
        write_png(tmp_path / 'images' / name, 9) if name[-3:] != 'txt' else None
    (tmp_path / 'metadata.csv').write_text(
        'file,patient,sex,age,view,source,lung_mask,dose\n'
        'images/b/1.png,P1,F,61,AP Supine,here,lung_masks/1.png,3\n'
        'images/a/3.jpg,P1,,,,,,\n'
        'images/a/gone.jpg,P2,,,,,,\n'
    )
    (tmp_path / 'lesion_boxes.csv').write_text(
        'file,finding,x,y,w,h\nimages/b/1.png,Mass,1,2,3,4.5\n'
    )
    listing = image_folder.list_items(tmp_path)
    assert listing.classes == ('a', 'b')
    assert [item.relative for item in listing.items] == [
        'images/a/3.jpg', 'images/b/1.png', 'images/b/2.PNG',
    ]  # fmt: skip
    assert [item.label for item in listing.items] == [0, 1, 1]
    full = listing.items[1]
    assert (full.patient, full.sex, full.age, full.view) == ('P1', 'F', 61, 'AP Supine')
    assert full.lung_mask == tmp_path / 'lung_masks/1.png'
    assert full.boxes == ((1, 2, 3, 4.5),)
    assert full.columns == {'dose': '3', 'box_findings': ['Mass']}
    assert listing.items[2].patient == '' and np.isnan(listing.items[2].age)
    assert listing.notes == [
        '1 of 3 rows of metadata.csv name no image.',
        '1 of 3 images have no row in metadata.csv.',
    ]


def test_image_folder_mistakes(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        image_folder.list_items(tmp_path / 'nowhere')
    write_png(tmp_path / 'a' / '1.png', 1)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty holds no image'):
        image_folder.list_items(tmp_path)
    write_png(tmp_path / 'empty' / '2.png', 1)
    (tmp_path / 'metadata.csv').write_text('file,label\na/1.png,empty\n')
    with pytest.raises(UserError, match="class folder 'a'.*label 'empty'"):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').write_text('path\na/1.png\n')
    with pytest.raises(UserError, match="lacks the columns \\['file'\\]"):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').write_text('file\n1.png\n')
    with pytest.raises(UserError, match='No row of'):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').unlink()
    write_png(tmp_path / 'loose.png', 1)
    with pytest.raises(UserError, match='both class folders'):
        image_folder.list_items(tmp_path)


def test_siim_mistakes(truths_and_data, tmp_path):
    _, raw, _ = truths_and_data
    shutil.copytree(raw, tmp_path / 'raw')
    studies, images = (tmp_path / 'raw' / f'train_{k}_level.csv' for k in ('study', 'image'))
    texts = studies.read_text(), images.read_text()
    for table, old, new, complaint in (
        (studies, 'Typical Appearance', 'Typical', 'lacks the columns'),
        (studies, ',1,0,0,0', ',1,1,0,0', 'exactly one of the four'),
        (images, "'x'", "x'", 'boxes of image .* cannot be read'),
        (images, ',00000000000a\n', ',ffffffffffff\n', 'study ffffffffffff'),
    ):
        table.write_text(table.read_text().replace(old, new))
        with pytest.raises(UserError, match=complaint):
            siim_covid19.list_items(tmp_path / 'raw')
        studies.write_text(texts[0])
        images.write_text(texts[1])
    images.unlink()
    with pytest.raises(UserError, match='train_image_level.csv is missing'):
        siim_covid19.list_items(tmp_path / 'raw')


def test_a_class_without_images_is_told(tmp_path):
    truths = write_siim_tree(tmp_path / 'raw')
    for truth in truths:
        if truth.label == 3:
            (tmp_path / 'raw' / truth.path).unlink()
    with pytest.raises(UserError, match='has the class atypical. 6 files were set aside'):
        prepare_siim(tmp_path / 'raw', tmp_path / 'data')


def test_the_command_line_tells_mistakes_without_traceback(tmp_path, capsys):
    assert main(['--dataset', 'mnist', '--data_dir', str(tmp_path), '--source', 'x']) == 2
    error = capsys.readouterr().err
    assert 'siim_covid19' in error and 'Traceback' not in error
    assert main(['--dataset', 'siim_covid19', '--data_dir', str(tmp_path)]) == 2
    assert '--source' in capsys.readouterr().err


def test_the_real_image_folder_is_listed_as_its_readme_says(shared):
    listing = image_folder.list_items(shared / 'real_cxr')
    names = [listing.classes[item.label] for item in listing.items]
    counts = {name: names.count(name) for name in listing.classes}
    assert counts == {'covid': 81, 'no_finding': 368, 'pneumonia': 326}
    assert len({item.patient for item in listing.items}) == 560
    assert sum(item.lung_mask is not None for item in listing.items) == 81
    assert sum(len(item.boxes) for item in listing.items) == 37
    assert not listing.notes


def test_synthetic_set_comes_through_the_siim_reader(tmp_path):
    prepared = prepare('synthetic_cxr', None, tmp_path, size=32, images=24, processes=1)
    assert prepared.classes == siim_covid19.CLASSES and prepared.has_patient_ids
    assert prepared.has_lung_masks and not prepared.card['quarantined']
    fewer = prepare('synthetic_cxr', None, tmp_path, size=32, images=20, processes=1)
    assert sum(fewer.counts.values()) == 20 and not fewer.card['quarantined']
