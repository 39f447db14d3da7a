"""The readers of data sets: what they find and what they complain about."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import image_folder, siim_covid19
from data_pipelines.errors import UserError
from data_pipelines.prepare import main, prepare
from data_pipelines.prepared.corpus import LeftOut
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.target import target_of
from tests.siim_tree import (
    prepare_siim,
    stored_records,
    write_siim_tree,
)


def write_png(path, value, shape=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_flat_folder_has_no_labels_and_no_patients(tmp_path, capsys):
    for value in range(9):
        write_png(tmp_path / 'raw' / f'{value}.png', 20 * value)
    write_png(tmp_path / 'raw' / 'copy.png', 20)
    prepared = prepare('image_folder', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)
    assert prepared.names == () and prepared.card['name_counts']['train'] == []
    assert not prepared.corpus().describe()['has_patient_ids']
    assert not prepared.index.has_mask.any()
    assert list(prepared.card['statistics']) == ['full']
    assert {record['labels'].shape for record in stored_records(prepared)} == {(0,)}
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
    assert listing.names == ('a', 'b') and listing.exclusive
    assert [item.relative for item in listing.items] == [
        'images/a/3.jpg', 'images/b/1.png', 'images/b/2.PNG',
    ]  # fmt: skip
    assert [item.labels for item in listing.items] == [(1, 0), (0, 1), (0, 1)]
    full = listing.items[1]
    assert (full.patient, full.sex, full.age, full.view) == ('P1', 'F', 61, 'AP Supine')
    assert full.lung_mask == tmp_path / 'lung_masks/1.png'
    assert full.boxes == ((1, 2, 3, 4.5),)
    assert full.columns == {'dose': '3', 'box_findings': ['Mass']}
    assert listing.items[2].patient == '' and np.isnan(listing.items[2].age)
    *notes, classes = listing.notes
    assert classes.startswith('The folders of the images are their classes: a, b.')
    assert notes == [
        '1 of 3 rows of metadata.csv name no image.',
        '1 of 3 images have no row in metadata.csv.',
    ]


def test_image_folder_mistakes(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        image_folder.list_items(tmp_path / 'nowhere')
    write_png(tmp_path / 'a' / '1.png', 1)
    with pytest.raises(UserError, match='No DICOM, PNG or JPEG file lies in .*: .txt 1'):
        (tmp_path / 'text').mkdir()
        (tmp_path / 'text' / 'a.txt').write_text('')
        image_folder.list_items(tmp_path / 'text')
    write_png(tmp_path / 'empty' / '1.png', 1)
    write_png(tmp_path / 'empty' / '2.png', 1)
    (tmp_path / 'metadata.csv').write_text('file,label\na/1.png,empty\n')
    with pytest.raises(UserError, match="class folder 'a'.*label 'empty'"):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').write_text('path\na/1.png\n')
    with pytest.raises(UserError, match="lacks the columns \\['file'\\]"):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').write_text('file\n3.png\n')
    with pytest.raises(UserError, match='No row of'):
        image_folder.list_items(tmp_path)


def write_folder(root, rows, header='file,label'):
    """A flat folder whose images 0.png, 1.png, .. differ, with `rows` of the csv for them."""
    for k in range(len(rows)):
        write_png(root / f'{k}.png', 3 * k)
    lines = [f'{k}.png,{row}' for k, row in enumerate(rows)]
    (root / 'metadata.csv').write_text('\n'.join([header, *lines, '']))


def test_a_bar_in_the_column_label_makes_findings_of_classes(tmp_path):
    write_folder(tmp_path, ['Mass|Effusion', 'Effusion', 'No Finding', '', 'no_finding', 'Mass'])
    listing = image_folder.list_items(tmp_path)
    assert listing.names == ('Effusion', 'Mass') and not listing.exclusive
    found = [item.labels for item in listing.items]
    assert found == [(1, 1), (1, 0), (0, 0), (), (0, 0), (0, 1)]
    write_folder(tmp_path, ['Mass', 'Effusion', 'No Finding', '', 'no_finding', 'Mass'])
    classes = image_folder.list_items(tmp_path)
    assert classes.names == ('Effusion', 'Mass', 'No Finding', 'no_finding') and classes.exclusive
    assert [item.labels for item in classes.items][2:4] == [(0, 0, 1, 0), ()]
    write_folder(tmp_path, ['Mass|No Finding'])
    with pytest.raises(UserError, match='no finding, and names one'):
        image_folder.list_items(tmp_path)


def test_columns_of_findings_say_each_on_its_own(tmp_path):
    header = 'file,patient,finding:Mass,finding: Air leak'
    write_folder(tmp_path, ['p,1,', 'p,0,1.0', 'q,-1,0', 'q,,'], header)
    listing = image_folder.list_items(tmp_path)
    assert listing.names == ('Air leak', 'Mass') and not listing.exclusive
    assert [item.labels for item in listing.items] == [(-2, 1), (1, 0), (0, -1), ()]
    assert all(item.columns == {} for item in listing.items)
    for cell in ('2', 'yes', '-2', 'nan'):
        write_folder(tmp_path, [f'p,{cell},0'], header)
        with pytest.raises(UserError, match=f"finding:Mass has '{cell}'.*0.png"):
            image_folder.list_items(tmp_path)
    write_folder(tmp_path, ['p,1,Mass'], 'file,patient,finding:Mass,label')
    with pytest.raises(UserError, match='Keep one of the two'):
        image_folder.list_items(tmp_path)


FINDINGS = ['Mass|Effusion', 'Effusion', 'No Finding', '', 'Mass', 'Hernia|Mass'] * 5


def test_a_multi_label_set_from_the_csv_to_the_card(tmp_path):
    rows = [f'{text},p{k},{"PA" if "Mass" in text else "AP"}' for k, text in enumerate(FINDINGS)]
    write_folder(tmp_path / 'raw', rows, 'file,label,patient,view')
    prepared = prepare('image_folder', tmp_path / 'raw', tmp_path, size=8, processes=1, name='x-1')
    assert prepared.names == ('Effusion', 'Hernia', 'Mass') and not prepared.exclusive
    assert prepared.directory == tmp_path / 'x-1' / '8px' and prepared.name == 'x-1'
    truth = np.array([
        [0] * 3 if 'No' in text else [int(name in text) if text else -2 for name in prepared.names]
        for text in FINDINGS
    ])  # fmt: skip
    pixels = {3 * k: row.tolist() for k, row in enumerate(truth)}
    for record, labels in zip(stored_records(prepared), prepared.index.labels, strict=True):
        assert pixels[record['image'].max()] == labels.tolist() == record['labels'].tolist()
    card = prepared.card
    assert np.sum(list(card['name_counts'].values()), 0).tolist() == (truth == 1).sum(0).tolist()
    assert all(min(counts) > 0 for counts in card['name_counts'].values()), 'stratified'
    shown = {}
    for row in card['composition']:
        shown[row['label']] = shown.get(row['label'], 0) + row['images']
    assert shown == {'Effusion': 10, 'Mass': 15, 'Hernia': 5, 'no_finding': 5, 'unlabelled': 5}
    assert card['unlabelled'] == 5
    # Of the 25 images with labels Mass is in 15, all of them PA, and in none of the 10 AP.
    assert card['association']['view']['Mass'] == pytest.approx(1)
    assert 0 < card['association']['view']['Hernia'] < 0.5
    assert any('of view and ' in line and 'Mass 1.00' in line for line in card['warnings'])
    page = (prepared.directory / 'card.md').read_text()
    assert '| split | Effusion | Hernia | Mass | no_finding | unlabelled | images |' in page
    assert page.startswith('# x-1 (image_folder), 8 px')
    table = (prepared.directory / 'splits.csv').read_text()
    assert table.count('Effusion|Mass') == 5 and table.count(',no_finding,') == 5
    assert (prepared.directory / 'contact_sheet.png').stat().st_size > 1000


@pytest.mark.parametrize('kind', ['unlabelled', 'classes', 'findings'])
def test_without_splits_every_image_is_for_training(tmp_path, kind, capsys):
    rows = {'unlabelled': ['p0', 'p1'], 'classes': ['p0,a', 'p1,b'], 'findings': ['p0,a|b', 'p1,']}
    write_folder(tmp_path / 'raw', rows[kind], 'file,patient,label'[: 12 if kind[0] == 'u' else 99])
    given = {'dataset': 'image_folder', 'source': tmp_path / 'raw', 'data_dir': tmp_path}
    flags = [f'--{key}={value}' for key, value in (given | {'size': 8, 'processes': 1}).items()]
    assert main([*flags, '--name=corpus']) == 2
    assert '--splits none' in capsys.readouterr().err
    assert main([*flags, '--name=corpus', '--splits=none']) == 0
    told = capsys.readouterr().out
    assert {'unlabelled': 'unlabelled', 'classes': 'a 1, b 1', 'findings': 'a 1, b 1'}[kind] in told
    prepared = open_prepared(tmp_path, 'corpus', 8)
    assert len(prepared.corpus('train')) == 2 and len(prepared.corpus('test')) == 0
    assert prepared.card['counts'] == {'train': 2}
    assert list(prepared.card['statistics']) == ['full']
    # The source's own splits do not count either.
    (tmp_path / 'raw' / 'splits.csv').write_text('patient,split\np0,test\np1,test\n')
    assert main([*flags, '--name=corpus', '--splits=none']) == 0
    assert len(open_prepared(tmp_path, 'corpus', 8).corpus('train')) == 2


def test_sets_of_one_folder_know_each_others_patients(tmp_path):
    write_folder(tmp_path / 'one', ['p0', 'p1', 'p2'], 'file,patient')
    write_folder(tmp_path / 'two', ['p2', 'p3', ''], 'file,patient')
    (tmp_path / 'two' / '1.png').rename(tmp_path / 'two' / 'x.png')
    (tmp_path / 'two' / 'metadata.csv').write_text('file,patient\n0.png,p2\nx.png,p3\n2.png,\n')
    one, two = (
        prepare('image_folder', tmp_path / name, tmp_path / 'data', size=8, processes=1,
                name=name, splits='none')
        for name in ('one', 'two')
    )  # fmt: skip
    patients = [set(p.index.patient) - {''} for p in (one, two)]
    assert len(patients[0]) == 3 and len(patients[1]) == 2 and len(patients[0] & patients[1]) == 1
    assert {p.card['dataset'] for p in (one, two)} == {'image_folder'}
    # Of `one` 2.png has a patient of `two`; the others have copies there, and a namesake of another
    # set is another image.
    kept, left_out = one.corpus().without(two.corpus())
    assert left_out == LeftOut(images=3, same_patient=1, same_content=2) and not len(kept)
    with pytest.raises(UserError, match='another source folder.*--name'):
        prepare('image_folder', tmp_path / 'two', tmp_path / 'data', size=8, name='one')
    with pytest.raises(UserError, match=r'one \(8\), two \(8\).*--name three'):
        open_prepared(tmp_path / 'data', 'three', 8)
    for name in ('../x', '.x', 'a/b'):
        with pytest.raises(UserError, match='cannot name a prepared set'):
            prepare('image_folder', tmp_path / 'two', tmp_path / 'data', size=8, name=name)


def test_siim_mistakes(tmp_path):
    write_siim_tree(tmp_path / 'raw')
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
    prepared = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    assert [counts[3] for counts in prepared.card['name_counts'].values()] == [0, 0, 0]
    assert prepared.card['quarantined'] == 6
    assert any('is labelled atypical' in sentence for sentence in prepared.card['warnings'])


def test_the_real_image_folder_is_listed_as_its_readme_says(shared):
    listing = image_folder.list_items(shared / 'real_cxr')
    names = [listing.names[item.labels.index(1)] for item in listing.items]
    assert all(sum(item.labels) == 1 for item in listing.items)
    counts = {name: names.count(name) for name in listing.names}
    assert counts == {'covid': 81, 'no_finding': 368, 'pneumonia': 326}
    assert len({item.patient for item in listing.items}) == 560
    assert sum(item.lung_mask is not None for item in listing.items) == 81
    assert sum(len(item.boxes) for item in listing.items) == 37
    page, classes = listing.notes
    assert page.endswith(': .md 1.') and 'classes: covid, no_finding, pneumonia' in classes


def test_synthetic_set_comes_through_the_siim_reader(tmp_path):
    prepared = prepare('synthetic_cxr', None, tmp_path, size=32, images=24, processes=1)
    assert prepared.names == siim_covid19.CLASSES and prepared.card['has_patient_ids']
    assert prepared.corpus().has_lung_masks and not prepared.card['quarantined']
    # Golden: stored order and drawn splits are those of every earlier preparation.
    order = {'train': 't', 'validation': 'v', 'test': 'T'}
    assert ''.join(order[split] for split in prepared.index.split) == 'tttTvtTtTttttvtvtTvtvtTT'
    labels = target_of(prepared).values(prepared.corpus())
    assert ''.join(map(str, labels)) == '103203001221110210313013'
    fewer = prepare('synthetic_cxr', None, tmp_path, size=32, images=20, processes=1)
    assert len(fewer.corpus()) == 20 and not fewer.card['quarantined']
