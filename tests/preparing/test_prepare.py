"""From a miniature SIIM tree to records: truth, statistics, privacy, sameness."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets.base import Item
from data_pipelines.errors import UserError
from data_pipelines.prepare import main
from data_pipelines.prepared.target import target_of
from data_pipelines.preparing import ingest
from data_pipelines.preparing.card import cramers_v
from data_pipelines.preparing.entry import Entry
from tests.dicom_files import dataset
from tests.siim_tree import (
    CLASSES,
    HEIGHT,
    SIZE,
    STUDY_DATE,
    WIDTH,
    by_pixels,
    expected_bytes,
    expected_image,
    prepare_siim,
    stored_records,
    write_siim_tree,
)


@pytest.fixture(scope='module')
def truths_and_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('siim')
    truths = write_siim_tree(root / 'raw')
    return truths, root / 'raw', prepare_siim(root / 'raw', root / 'data')


def test_records_tell_the_truth(truths_and_data):
    truths, _, prepared = truths_and_data
    records = by_pixels(prepared)
    assert len(records) == len(truths) == len(prepared.corpus())
    assert prepared.names == CLASSES and prepared.exclusive
    patients, studies = {}, {}
    for truth in truths:
        record = records[expected_bytes(truth)]
        assert record['labels'].tolist() == [int(k == truth.label) for k in range(4)]
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
    assert prepared.corpus().has_lung_masks
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
    ingested = ingest.load(task.result)
    np.testing.assert_array_equal(ingested.image, ingested.lung_mask * 255)
    ((x, y, w, h),) = Entry(item, ingested.meta).boxes
    assert (x, y, w, h) == (10, 5, 5, 5) and ingested.lung_mask.sum() == 25
    assert ingested.lung_mask[5:10, 10:15].all()
    assert ingested.meta['spacing'] == [2.0, 2.0]


def test_splits_are_by_patient_and_written_down(truths_and_data):
    truths, _, prepared = truths_and_data
    assert prepared.card['has_patient_ids'] and not prepared.card['warnings']
    with (prepared.directory / 'splits.csv').open() as file:
        table = {row['image_id']: row for row in csv.DictReader(file)}
    split_of = {}
    for record in stored_records(prepared):
        row = table[record['image_id'].decode()]
        assert row['patient'] == record['patient'].decode()
        assert row['label'] == CLASSES[record['labels'].argmax()]
        assert row['split'] == record['split']
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
    assert prepared.card['statistics'].keys() == regions.keys()
    for name, pixels in regions.items():
        found = prepared.card['statistics'][name]
        assert found == prepared.corpus('train').statistics(name)
        assert found['mean'] == pytest.approx(pixels.mean(), rel=1e-9)
        assert found['std'] == pytest.approx(pixels.std(), rel=1e-9)


def test_card_counts(truths_and_data):
    truths, _, prepared = truths_and_data
    card, records = prepared.card, stored_records(prepared)
    assert sum(row['images'] for row in card['composition']) == len(truths)
    for row in card['composition']:
        matching = [
            r
            for r in records
            if (CLASSES[r['labels'].argmax()], r['split']) == (row['label'], row['split'])
            and all(r[k].decode() == row[k] for k in ('sex', 'view', 'source'))
        ]
        assert len(matching) == row['images'] > 0
    for split, n in card['counts'].items():
        own = [r for r in records if r['split'] == split]
        assert n == len(own) == len(prepared.corpus(split))
        assert card['name_counts'][split] == np.sum([r['labels'] for r in own], 0).tolist()
        assert card['patients'][split] == len({r['patient'] for r in own})
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
    data_dir = prepared.data_dir
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
    mine, others = prepared.corpus('train'), other.corpus('train')
    target = target_of(prepared)
    assert mine.fingerprint == others.fingerprint
    assert target.fingerprint(mine) == target.fingerprint(others)
    strata = target.strata(mine)
    np.testing.assert_array_equal(mine.folds(3, 1, strata), others.folds(3, 1, strata))
    parts = [corpus.fraction(0.5, 1, strata).parts[0][1] for corpus in (mine, others)]
    np.testing.assert_array_equal(*parts)
    reseeded = prepare_siim(tmp_path / 'elsewhere', tmp_path / 'data', seed=1)
    assert reseeded.fingerprint != prepared.fingerprint


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


def test_the_command_line_tells_mistakes_without_traceback(tmp_path, capsys):
    assert main(['--dataset', 'mnist', '--data_dir', str(tmp_path), '--source', 'x']) == 2
    error = capsys.readouterr().err
    assert 'siim_covid19' in error and 'Traceback' not in error
    assert main(['--dataset', 'siim_covid19', '--data_dir', str(tmp_path)]) == 2
    assert '--source' in capsys.readouterr().err
