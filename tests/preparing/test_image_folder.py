"""Any folder: files by content, folders as classes or not, tables of any make, odd names."""

import os
import pathlib
import re
import shutil
import unicodedata

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid

from data_pipelines.datasets import image_folder
from data_pipelines.datasets.folder_layout import read_layout
from data_pipelines.errors import UserError
from data_pipelines.prepare import main
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.key_file import key_file, read_key_file
from data_pipelines.preparing.ingest import prepare_image
from data_pipelines.raw.dicom import read_image_file
from data_pipelines.raw.dicom_pixels import UnreadableRadiograph
from data_pipelines.raw.kinds import kind_of, read_head
from tests.dicom_files import dataset
from tests.siim_tree import stored_records

GREY = np.arange(64).reshape(8, 8) * 4


def write_image(path, value=9, kind='PNG'):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path, kind)


def write_dicom(path, patient='', stored=GREY, **elements):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(stored, bits=8, PatientID=patient, **elements).save_as(path, enforce_file_format=True)


def prepare_folder(root, *flags):
    """Exit code of `prepare` for <root>/raw, without splits."""
    return main([
        '--dataset=image_folder', f'--source={root / "raw"}', f'--data_dir={root / "data"}',
        '--size=8', '--processes=1', '--splits=none', *flags,
    ])  # fmt: skip


def shown(listing):
    """{file: the names of what it shows, None for no label}."""
    return {
        item.relative: [n for n, v in zip(listing.names, item.labels, strict=True) if v == 1]
        if item.labels else None
        for item in listing.items
    }  # fmt: skip


@pytest.mark.parametrize('implicit, little', [(True, True), (False, True), (False, False)])
def test_a_data_set_without_preamble_is_dicom(tmp_path, implicit, little):
    syntax = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    ds = dataset(GREY, bits=8, syntax=syntax, ImageType='ORIGINAL', Modality='DX')
    path = tmp_path / 'IM1'
    ds.save_as(path, enforce_file_format=True)
    assert kind_of(read_head(path)) == 'DICOM'
    whole = path.read_bytes()
    (tmp_path / 'IM2').write_bytes(whole[132:])  # from group 2 on
    assert kind_of(read_head(tmp_path / 'IM2')) == 'DICOM'
    del ds.file_meta
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=little)
    assert path.read_bytes()[:2] in (b'\x08\x00', b'\x00\x08')
    assert kind_of(read_head(path)) == 'DICOM'
    assert prepare_image(path, 8, 8)[0].tolist() == GREY.tolist()


@pytest.mark.parametrize('head', [
    b'', b'DICM', b'file,label\n1.png,a\n', 'file,label\n'.encode('utf-16'), bytes(2000),
    b'\x08\x00' * 500, b'\x00\x08' + bytes(900), b'\x08\x00\x05\x00CS\x02\x00IR' + b'x' * 99,
    b'\x02\x00\x00\x00UL\x04\x00' + bytes(500), bytes(127) + b'DICM', b'II*\x00' + bytes(900),
    b'\x1f\x8b\x08\x00' + bytes(99), b'\x89PNG', b'<html>' + b'DICM' * 300,
])  # fmt: skip
def test_other_files_are_none(head):
    assert kind_of(head[:1024]) == ''


def test_the_content_decides_and_not_the_suffix(tmp_path):
    write_image(tmp_path / 'a.dcm', 90)
    write_dicom(tmp_path / 'b.png', stored=GREY)
    write_image(tmp_path / 'c', 255, 'JPEG')
    for name, low, high in (('a.dcm', 90, 90), ('b.png', 0, 252), ('c', 255, 255)):
        pixels = prepare_image(tmp_path / name, 8, 8)[0]
        assert (pixels.min(), pixels.max()) == (low, high), name
    (tmp_path / 'd.dcm').write_text('version https://git-lfs.github.com/spec/v1')
    for name in ('d.dcm', 'gone.dcm'):
        with pytest.raises(UnreadableRadiograph, match='not a DICOM, PNG or JPEG|No such file'):
            prepare_image(tmp_path / name, 8, 8)
    listing = image_folder.list_items(tmp_path)
    assert [item.relative for item in listing.items] == ['a.dcm', 'b.png', 'c']
    assert listing.rejected == [('d.dcm', 'not a DICOM, PNG or JPEG file')]


def test_a_dump_of_a_pacs(tmp_path, capsys):
    raw = tmp_path / 'raw'
    for k in range(6):
        write_dicom(raw / f'PAT{k // 2}' / f'ST{k}' / 'SERIES1' / 'IM0001', f'p{k // 2}',
                    stored=GREY // (k + 1), StudyInstanceUID=f'1.2.{k}')  # fmt: skip
    first = raw / 'PAT0/ST0/SERIES1/IM0001'
    for name in ('.hidden', '__MACOSX/IM1', 'lung_masks/m.png', 'PAT0/.cache/IM1'):
        (raw / name).parent.mkdir(exist_ok=True)
        shutil.copy(first, raw / name)
    write_dicom(raw / 'DICOMDIR')
    content = (raw / 'DICOMDIR').read_bytes()
    storage = b'1.2.840.10008.5.1.4.1.1.1\0'
    assert storage in content
    directory = b'1.2.840.10008.1.3.10'.ljust(len(storage), b'\0')
    (raw / 'DICOMDIR').write_bytes(content.replace(storage, directory))
    (raw / 'VIEWER').mkdir()
    for name in ('VIEWER/run.exe', 'VIEWER/a.txt', 'b.txt', 'report.MUELLER', '1.2.840'):
        (raw / name).write_text('x')
    (raw / 'empty').mkdir()
    os.symlink('nowhere.png', raw / 'link.png')
    os.symlink('..', raw / 'PAT0' / 'loop')
    os.symlink('self', raw / 'self')
    os.mkfifo(raw / 'pipe')
    assert prepare_folder(tmp_path) == 3
    told = capsys.readouterr().err
    # Six images, six other files, three that are set aside or passed over.
    assert 'listing: 15 of 15 files' in told
    assert 'note: Left out, being no DICOM, PNG or JPEG: ' in told
    assert '.txt 2' in told and '.exe 1' in told and 'no suffix 3' in told
    assert 'mueller' not in told.lower(), 'a name is no suffix'
    prepared = open_prepared(tmp_path / 'data', 'image_folder', 8)
    assert prepared.names == () and len(prepared.corpus()) == 6
    assert prepared.card['patients'] == {'train': 3} and not prepared.card['warnings']
    assert len(set(prepared.index.study)) == 6
    assert any('.txt 2' in note for note in prepared.card['notes'])
    assert (prepared.directory / 'quarantine.csv').read_text().splitlines()[1:] == [
        'link.png,cannot be read: No such file or directory',
        'self,cannot be read: Too many levels of symbolic links',
    ]


def layout(*paths, classes='auto', patients=None):
    return read_layout(paths, classes, lambda path: (patients or {}).get(path, ''))


def files(folder, n):
    return [f'{folder}/{k}' for k in range(n)]


@pytest.mark.parametrize('paths, classes', [
    (['1', '2'], set()),
    (files('a', 5), set()),  # one folder holds everything
    (files('a', 1) + files('b', 2), {'a', 'b'}),
    (files('set/x/a', 1) + files('set/x/b', 2), {'a', 'b'}),
    (files('COVID-19', 9) + files('normal', 9), {'COVID-19', 'normal'}),
    (files('0', 9) + files('1', 9), {'0', '1'}),
    (files('PAT1', 9) + files('PAT22', 9), set()),
    (files('images_001', 99) + files('images_002', 99), set()),
    (files('DOE1950', 2) + files('ROE1961', 2), set()),
    (files('Doe', 1) + files('Roe', 1), set()),
    (sum((files(2 * chr(65 + k), 4) for k in range(21)), []), set()),
    (sum((files(2 * chr(65 + k), 5) for k in range(21)), []), {2 * chr(65 + k) for k in range(21)}),
    (['1', *files('a', 9), *files('b', 9)], set()),
    (files('a/x', 9) + files('b', 9), set()),
    (files('train/a', 2) + files('train/b', 2) + files('test/b', 1), {'a', 'b'}),
    (files('train/PAT1/S', 2) + files('test/PAT2/S', 2), set()),
    (files('train', 5) + files('test', 5), set()),
])  # fmt: skip
def test_when_folders_are_classes(paths, classes):
    found = layout(*paths)
    assert set(found.classes.values()) == classes
    assert len(found.notes) == (max(path.count('/') for path in paths) > 0) - (
        {path[:2] for path in paths} == {'a/'}
    ) + (paths[0].startswith('train/') and paths[0].count('/') > 1)
    assert not layout(*paths, classes='none').classes
    explicit = set(layout(*paths, classes='folders').classes.values())
    assert explicit >= classes and explicit - {''} == {
        path.rpartition('/')[0].rpartition('/')[2] for path in paths
    } - {'', 'train', 'test'}  # fmt: skip


def test_headers_tell_patients_from_classes():
    paths = files('DOE', 6) + files('ROE', 6)
    one_each = {path: path[:3] for path in paths}
    assert not layout(*paths, patients=one_each).classes
    assert 'one patient to a folder' in layout(*paths, patients=one_each).notes[0]
    assert layout(*paths, patients={path: path for path in paths}).classes
    assert layout(*paths, patients=dict.fromkeys(paths, 'ANON')).classes
    with pytest.raises(UserError, match='classes=yes must be auto, folders .* or none'):
        layout(*paths, classes='yes')


def test_folders_called_train_and_test_are_the_splits(tmp_path):
    for k, name in enumerate(('train/NORMAL', 'train/PNEUMONIA', 'val/NORMAL', 'test/PNEUMONIA')):
        for number in range(3):
            write_image(tmp_path / 'chest_xray' / name / f'{k}{number}.jpeg', kind='JPEG')
    (tmp_path / 'chest_xray/train/NORMAL/Thumbs.db').write_text('x')
    listing = image_folder.list_items(tmp_path)
    assert listing.names == ('NORMAL', 'PNEUMONIA')
    truth = {'0': ('train', 0), '1': ('train', 1), '2': ('validation', 0), '3': ('test', 1)}
    for item in listing.items:
        split, label = truth[item.path.name[0]]
        assert (item.split, item.labels.index(1)) == (split, label) and sum(item.labels) == 1
    assert any('test, train, val are the data set' in note for note in listing.notes)
    assert any('classes: NORMAL, PNEUMONIA.' in note for note in listing.notes)


def test_only_the_folder_images_is_read_where_there_is_one(tmp_path):
    for name in ('images/1.png', 'images/sub/2.png', 'thumbnails/1.png', 'x/1.png', 'masks/1.png'):
        write_image(tmp_path / name)
    (tmp_path / 'metadata.csv').write_text('file,lung_mask\nimages/1.png,masks/1.png\n')
    listing = image_folder.list_items(tmp_path)
    assert [item.relative for item in listing.items] == ['images/1.png', 'images/sub/2.png']
    assert 'Left out, lying outside of images/: 2 images.' in listing.notes
    shutil.rmtree(tmp_path / 'images')
    shutil.rmtree(tmp_path / 'x')
    (tmp_path / 'metadata.csv').write_text('file,lung_mask\nthumbnails/1.png,masks/1.png\n')
    (item,) = image_folder.list_items(tmp_path).items
    assert item.relative == 'thumbnails/1.png' and item.lung_mask == tmp_path / 'masks/1.png'


def write_scans(root):
    for k, name in enumerate(('a/10.2.dcm', 'a/10.3.dcm', 'b/M\u00fcller 1.dcm')):
        write_dicom(root / unicodedata.normalize('NFD', name), f'p{k}')


TABLE = 'image_id;diagnosis;pid;secret\n{};sick;X1;a\n{};well;X2;b\n{};sick;X1;c\n'
COLUMNS = 'file=image_id,label=diagnosis,patient=pid'


@pytest.mark.parametrize('cells', [
    ('10.2', '10.3', 'M\u00fcller 1'),
    ('10.2.dcm', '10.3.dcm', 'M\u00fcller 1.dcm'),
    ('a/10.2.dcm', './a/10.3', 'b\\M\u00fcller 1.dcm'),
    ('raw/a/10.2.dcm', '{root}/raw/a/10.3.dcm', '../raw/b/M\u00fcller 1.dcm'),
])  # fmt: skip
@pytest.mark.parametrize('encoding, delimiter', [
    ('utf-8', ';'), ('utf-8-sig', '\t'), ('utf-16', ','), ('cp1252', ';'),
])  # fmt: skip
def test_tables_of_any_make(tmp_path, cells, encoding, delimiter):
    write_scans(tmp_path / 'raw')
    text = TABLE.format(*(cell.format(root=tmp_path) for cell in cells)).replace(';', delimiter)
    text = 'sep=;\n' + text if encoding == 'cp1252' else text
    (tmp_path / 'raw' / 'labels.csv').write_bytes(text.replace('\n', '\r\n').encode(encoding))
    listing = image_folder.list_items(tmp_path / 'raw', metadata='labels.csv', columns=COLUMNS)
    assert [item.relative[:4] for item in listing.items] == ['a/10', 'a/10', 'b/Mu']
    assert list(shown(listing).values()) == [['sick'], ['well'], ['sick']]
    assert [item.patient for item in listing.items] == ['X1', 'X2', 'X1']
    assert all(item.columns == {} for item in listing.items), 'only what is named is kept'
    assert any('classes, as labels.csv says what the images show' in n for n in listing.notes)


def test_a_table_that_is_not_used_is_named(tmp_path, capsys):
    write_scans(tmp_path / 'raw')
    (tmp_path / 'raw' / 'labels.csv').write_text(TABLE.format('10.2', '10.3', 'x'))
    (tmp_path / 'raw' / 'b' / 'book.xlsx').write_bytes(b'PK\x03\x04')
    assert prepare_folder(tmp_path) == 0
    said = (
        'labels.csv lies beside the images and was not used; its columns are image_id, diagnosis, '
        'pid, secret. Use it with --metadata labels.csv --columns file=...,label=...,patient=...'
    )
    assert said in capsys.readouterr().err
    page = (tmp_path / 'data/image_folder/8px/card.md').read_text()
    assert said in page and 'b/book.xlsx was not used. It is a spreadsheet' in page
    flags = ('--metadata=labels.csv', f'--columns={COLUMNS}')
    assert prepare_folder(tmp_path, *flags) == 0
    told = capsys.readouterr().err
    assert 'beside the images' not in told and '1 of 3 rows of labels.csv name no image' in told
    prepared = open_prepared(tmp_path / 'data', 'image_folder', 8)
    assert prepared.names == ('sick', 'well') and prepared.card['unlabelled'] == 1


def test_columns_of_findings_of_any_name(tmp_path):
    for k in range(3):
        write_image(tmp_path / f'{k}.png')
    (tmp_path / 'own.csv').write_text(
        'Image,Pleural Effusion,Mass,who,part\n0,1,0,s1,Train\n1,-1,,s1,\n2.png,,1.0,s2,valid\n'
    )
    listing = image_folder.list_items(
        tmp_path, metadata=str(tmp_path / 'own.csv'),
        columns='file=Image, findings=Pleural Effusion+Mass, study=who,split=part',
    )  # fmt: skip
    assert listing.names == ('Mass', 'Pleural Effusion') and not listing.exclusive
    assert [item.labels for item in listing.items] == [(0, 1), (-2, -1), (1, -2)]
    assert [item.study for item in listing.items] == ['s1', 's1', 's2']
    assert [item.split for item in listing.items] == ['train', '', 'validation']


def test_findings_in_a_table_are_preferred_to_folders(tmp_path):
    for name in ('siteA/0', 'siteA/1', 'siteB/2'):
        write_image(tmp_path / f'{name}.png')
    (tmp_path / 'metadata.csv').write_text('file,finding:Mass\n0,1\n1,0\n')
    listing = image_folder.list_items(tmp_path)
    assert listing.names == ('Mass',) and not listing.exclusive
    assert shown(listing) == {'siteA/0.png': ['Mass'], 'siteA/1.png': [], 'siteB/2.png': None}
    with pytest.raises(UserError, match='Keep one of the two.*classes=none'):
        image_folder.list_items(tmp_path, classes='folders')


@pytest.mark.parametrize('text, columns, complaint', [
    ('image_id,dx\n10.2,a\n', '', r"lacks the columns \['file'\]; it has .*--columns file="),
    ('image_id,dx\n10.2,a\n', 'file=id', r"lacks the columns \['id'\]; it has .*--columns file="),
    ('image_id,dx\n10.2,a\n', 'file=image_id,dx=label', "--columns has 'dx=label'.*NAME=COLUMN"),
    ('image_id,dx\n10.2,a\n', 'label=dx', 'Add file=COLUMN'),
    ('file,label\n10.2,a\n10.3,b\na/10.2.dcm,c\n', '', "rows 1 and 3 .*10.2.dcm: label is 'a' and"),
    ('file,patient\n10.2,a\n10.2,\n', '', "rows 1 and 2 .*: patient is 'a' and ''"),
    ('file\nIM1\n', '', 'may be c/1/IM1 and c/2/IM1'),
    ('file\nnone\n', '', "No row of .*such as 'none'; an image is called 'a/10.2.dcm'"),
    ('file,split\n10.2,later\n', 'file=file,split=split', "split of a/10.2.dcm is 'later'"),
    ('file,label\n"10.2,a\n' + 'x' * 200_000, '', 'line .*field larger than'),
    ('PK\x03\x04', '', 'is a spreadsheet.*save the sheet as csv'),
    ('file,label\n10.2,\0\n', '', 'is no table of text'),
])  # fmt: skip
def test_mistakes_in_ones_own_table(tmp_path, text, columns, complaint):
    write_scans(tmp_path)
    for k in (1, 2):
        write_dicom(tmp_path / 'c' / str(k) / 'IM1', 'p')
    (tmp_path / 'own.csv').write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        image_folder.list_items(tmp_path, metadata=str(tmp_path / 'own.csv'), columns=columns)
    assert 'unchanged file of the data set' not in str(error.value)


def test_rows_that_repeat_an_image(tmp_path):
    write_scans(tmp_path)
    (tmp_path / 'metadata.csv').write_text('file,label,reader\n10.2,a,1\n10.2,a,2\n10.3,nan,1\n')
    listing = image_folder.list_items(tmp_path, classes='none')
    assert listing.names == ('a',) and listing.items[0].columns == {'reader': '1'}
    assert any('1 rows of metadata.csv repeat an image' in note for note in listing.notes)
    (tmp_path / 'metadata.csv').unlink()
    for given in ({'metadata': 'gone.csv'}, {'columns': 'file=image_id'}):
        with pytest.raises(UserError, match='There is no table .*csv'):
            image_folder.list_items(tmp_path, **given)


def code_of(page, folder):
    """The Python code of a page of the docs, for a folder."""
    text = (pathlib.Path(__file__).parents[2] / 'docs/datasets' / page).read_text()
    return '\n'.join(re.findall(r'```python\n(.*?)```', text, re.DOTALL)).replace('FOLDER', folder)


def test_openi_as_its_page_says(tmp_path):
    for k in range(4):
        write_image(tmp_path / f'images/images_normalized/{k // 2}_IM-000{k}-1001.dcm.png')
    rows = [f'{k // 2},{k // 2}_IM-000{k}-1001.dcm.png,{("Frontal", "Lateral")[k % 2]}\n'
            for k in range(4)]  # fmt: skip
    (tmp_path / 'indiana_projections.csv').write_text('uid,filename,projection\n' + ''.join(rows))
    (tmp_path / 'indiana_reports.csv').write_text(
        'uid,MeSH,Problems,image,indication\n0,normal,normal,x,"a, b"\n1,x,Cardiomegaly;Edema,x,y\n'
    )
    listing = image_folder.list_items(
        tmp_path, metadata='indiana_projections.csv',
        columns='file=filename,patient=uid,view=projection',
    )  # fmt: skip
    assert [(item.patient, item.view) for item in listing.items] == [
        ('0', 'Frontal'), ('0', 'Lateral'), ('1', 'Frontal'), ('1', 'Lateral'),
    ]  # fmt: skip
    assert listing.names == () and 'indiana_reports.csv lies' in listing.notes[-1]
    exec(code_of('openi.md', str(tmp_path)), {})
    labelled = image_folder.list_items(tmp_path / 'frontal')
    assert list(shown(labelled).values()) == [[], ['Cardiomegaly', 'Edema']]


def test_jsrt_as_its_page_says(tmp_path):
    stored = np.full((2048, 2048), 1000)
    stored[0, :2] = 4095, 0
    for name in ('JPCLN001', 'JPCNN001'):
        (tmp_path / f'{name}.IMG').write_bytes(stored.astype('>u2').tobytes())
    with pytest.raises(UserError, match='No DICOM, PNG or JPEG.*: .img 2'):
        image_folder.list_items(tmp_path)
    exec(code_of('jsrt.md', str(tmp_path)), {})
    listing = image_folder.list_items(tmp_path / 'png')
    assert list(shown(listing).values()) == [['nodule'], ['none']]
    pixels = read_image_file(listing.items[0].path).pixels
    assert pixels[0, :2].tolist() == [0, 1] and pixels[9, 9] == pytest.approx(3095 / 4095)


def test_odd_names_come_back_by_the_key_file(tmp_path, capsys):
    raw = os.fsencode(tmp_path / 'raw')
    names = {b'a/M\xfcller, "1".png': 50, b'a/x\ny.png': 100, b'\xffb/\xe2\x82\xac.png': 150,
             b'\xffb/ z.png': 200}  # fmt: skip
    for name, value in names.items():
        os.makedirs(os.path.dirname(raw + b'/' + name), exist_ok=True)
        with open(raw + b'/' + name, 'wb') as file:
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(file, 'PNG')
    with open(raw + b'/a/\xff broken.png', 'wb'):
        pass
    (tmp_path / 'raw/metadata.csv').write_bytes(
        b'file,view\n"a/M\xfcller, ""1"".png",PA\n\xffb/ z.png,AP\n'
    )
    assert prepare_folder(tmp_path) == 3
    capsys.readouterr()
    prepared = open_prepared(tmp_path / 'data', 'image_folder', 8)
    assert prepared.names == ('a', '\u00ffb')
    table = read_key_file(prepared.directory)
    found = {}
    for record in stored_records(prepared):
        found[os.fsencode(table[record['image_id'].decode()])] = int(record['image'].max())
        assert record['view'] == {50: b'PA', 200: b'AP'}.get(record['image'].max(), b'')
    assert found == names
    path = key_file(prepared.directory)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert path not in prepared.directory.rglob('*') and 'image_folder-8px' in path.name
    stored = [each for each in prepared.directory.rglob('*') if each.is_file()]
    assert not any(b'ller, ' in each.read_bytes() for each in stored)
    assert b'a/\xff broken.png' in (prepared.directory / 'quarantine.csv').read_bytes()
    assert [*path.parent.iterdir()] == [path], 'nothing half written stays'
