"""MIMIC-CXR-JPG: four compressed tables joined, labels of studies, views, the official split."""

import pytest

from data_pipelines.datasets import mimic_cxr
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from tests.datasets.trees import by_name, shown, write_image, write_table

STEM = 'mimic-cxr-2.0.0-'
METADATA = (
    'dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,'
    'StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,'
    'PatientOrientationCodeSequence_CodeMeaning'
)
LABELS = (
    'subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,'
    'Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,'
    'Pneumothorax,Support Devices'
)
IMAGES = [  # dicom_id, subject, study, split, view
    ('02aa804e-bde0afdd', '10000032', '50414267', 'train', 'PA'),
    ('174413ec-4ec4c1f7', '10000032', '50414267', 'train', 'LATERAL'),
    ('2a2277a9-b0ded155', '10000032', '53189527', 'train', 'AP AXIAL'),
    ('e084de3b-be89b11e', '10000764', '57375967', 'validate', 'AP'),
    ('68b5c4b1-227d0485', '19999987', '55368167', 'test', 'AP'),
    ('58766883-376a15ce', '19999987', '58621812', 'test', ''),
]
STUDIES = [
    '10000032,50414267,,,,,,,,,1.0,,,,,',
    '10000764,57375967,,,1.0,-1.0,,,,,,0.0,,,,',
    '19999987,55368167,1.0,,,,,,,,,,,,,1.0',
]


def write_tree(root, suffix='.csv.gz'):
    splits = [f'{image},{study},{subject},{split}' for image, subject, study, split, _ in IMAGES]
    views = [
        f'{image},{subject},{study},"CHEST (PA, LAT)",{view},3056,2544,21800506,213014.531,,,'
        for image, subject, study, _, view in IMAGES
    ]
    write_table(root / f'{STEM}split{suffix}', ['dicom_id,study_id,subject_id,split', *splits])
    write_table(root / f'{STEM}metadata{suffix}', [METADATA, *views])
    write_table(root / f'{STEM}chexpert{suffix}', [LABELS, *STUDIES])
    write_table(root / f'{STEM}negbio{suffix}', [LABELS, '10000032,50414267,,1.0' + ',' * 12])
    for k, (image, subject, study, *_) in enumerate(IMAGES):
        write_image(root / 'files' / f'p{subject[:2]}/p{subject}/s{study}/{image}.jpg', k)


@pytest.mark.parametrize('suffix', ['.csv.gz', '.csv'])
def test_the_tables_are_joined(tmp_path, suffix):
    write_tree(tmp_path, suffix)
    listing = mimic_cxr.list_items(tmp_path)
    assert not listing.rejected and not listing.exclusive and len(listing.names) == 13
    assert listing.notes == [
        '2 images that are not frontal are left out (--options laterals=True).'
    ]
    items = by_name(listing)
    assert [(i.path.stem, i.split, i.view) for i in items.values()] == [
        ('02aa804e-bde0afdd', 'train', 'PA'), ('2a2277a9-b0ded155', 'train', 'AP AXIAL'),
        ('e084de3b-be89b11e', 'validation', 'AP'), ('68b5c4b1-227d0485', 'test', 'AP'),
    ]  # fmt: skip
    third = items['e084de3b-be89b11e']
    assert third.relative == 'files/p10/p10000764/s57375967/e084de3b-be89b11e.jpg'
    assert (third.patient, third.study) == ('mimic-10000764', 'mimic-57375967')
    assert shown(listing, third) == {'Consolidation'}
    assert shown(listing, third, -1) == {'Edema'}
    assert shown(listing, third, 0) == {'Pleural Effusion'}
    assert shown(listing, items['68b5c4b1-227d0485']) == {'Atelectasis', 'Support Devices'}
    assert shown(listing, items['02aa804e-bde0afdd'], 0) == set(listing.names) - {'Support Devices'}
    assert items['2a2277a9-b0ded155'].labels == (), 'the labeller has no row of its study'


def test_laterals_share_the_labels_of_their_study(tmp_path):
    write_tree(tmp_path)
    items = by_name(mimic_cxr.list_items(tmp_path, laterals=True))
    assert len(items) == 6
    assert items['174413ec-4ec4c1f7'].labels == items['02aa804e-bde0afdd'].labels
    assert items['174413ec-4ec4c1f7'].view == 'LATERAL'


def test_the_labeller_is_an_option(tmp_path):
    write_tree(tmp_path)
    listing = mimic_cxr.list_items(tmp_path, labels='negbio')
    assert shown(listing, by_name(listing)['02aa804e-bde0afdd']) == {'Cardiomegaly'}
    with pytest.raises(UserError, match='labels=expert must be one of chexpert, negbio'):
        mimic_cxr.list_items(tmp_path, labels='expert')


def test_a_table_that_is_cut_off_is_told(tmp_path):
    write_tree(tmp_path)
    table = tmp_path / f'{STEM}metadata.csv.gz'
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(UserError, match=r'metadata.csv.gz cannot be read \(EOFError\)'):
        mimic_cxr.list_items(tmp_path)
    table.unlink()
    with pytest.raises(UserError, match='metadata.csv.gz is missing'):
        mimic_cxr.list_items(tmp_path)


def test_the_official_split_is_kept(tmp_path):
    write_tree(tmp_path / 'raw')
    prepared = prepare('mimic_cxr', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)
    assert prepared.card['counts'] == {'train': 2, 'validation': 1, 'test': 1}
    assert prepared.card['split_origin'] == "the data set's own"
    assert prepared.card['unlabelled'] == 1 and prepared.card['has_patient_ids']
    assert len(set(prepared.index.study)) == 4 and len(set(prepared.index.patient)) == 3
