"""covid-chestxray-dataset: both schemas of its table, paths of findings, views, masks."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import covid_chestxray
from data_pipelines.errors import UserError

NEW = 'patientid,offset,sex,age,finding,view,modality,date,location,folder,filename, url,license'
ROWS = [
    '2,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,2020,"Rome, Italy",images,a.jpg,u,CC',
    '2,3,M,65,Pneumonia/Viral/COVID-19,L,X-ray,2020,,images,b.jpg,u,CC',
    '316b,,F,,Pneumonia,AP Supine,X-ray,,,images,c.png,u,',
    '4,,F,,Pneumonia/Bacterial,AP,X-ray,,,images,d.png,u,',
    '5,,,,No Finding,AP,X-ray,,,images,e.png,u,',
    '6,,,,todo,PA,X-ray,,,images,f.png,u,',
    '7,,,,Unknown,PA,X-ray,,,images,g.png,u,',
    '8,,,,Tuberculosis,Axial,CT,,,images,h.png,u,',
    '9,,,,Pneumonia,Coronal,CT,,,volumes,i.nii.gz,u,',
    '10,,,,Pneumonia,PA,X-ray,,,images,gone.png,u,',
]


def save(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path):
    for name in ('a.jpg', 'b.jpg', 'c.png', 'd.png', 'e.png', 'f.png', 'g.png', 'h.png', 'x.png'):
        save(tmp_path / 'images' / name)
    save(tmp_path / 'images' / '._a.jpg.png')
    save(tmp_path / 'lung_masks' / 'a.png')
    save(tmp_path / 'lung_masks' / 'd.png')
    (tmp_path / 'metadata.csv').write_text('\n'.join([NEW, *ROWS]))
    return tmp_path


def test_findings_are_paths(tree):
    """-2: below a path's end nothing is said. A path's own names are there, others are not."""
    listing = covid_chestxray.list_items(tree)
    assert not listing.exclusive
    assert listing.names == ('Bacterial', 'COVID-19', 'Pneumonia', 'Viral')
    labels = {item.path.name: item.labels for item in listing.items}
    assert labels == {
        'a.jpg': (0, 1, 1, 1), 'c.png': (-2, -2, 1, -2), 'd.png': (1, 0, 1, 0),
        'e.png': (0, 0, 0, 0), 'f.png': (), 'g.png': (),
    }  # fmt: skip


def test_what_is_known_and_what_is_left_out(tree):
    listing = covid_chestxray.list_items(tree)
    first, second, third, *_ = listing.items
    assert (first.patient, first.sex, first.age, first.view) == ('2', 'M', 65, 'PA')
    assert first.source == 'Rome, Italy' and first.columns['url'] == 'u'
    assert first.columns['license'] == 'CC' and second.patient == '316b'
    masks = [item.lung_mask and item.lung_mask.name for item in (first, second, third)]
    assert masks == ['a.png', None, 'd.png']
    reasons = dict(listing.rejected)
    assert reasons.keys() == {
        'images/b.jpg', 'images/h.png', 'volumes/i.nii.gz', 'images/gone.png', 'images/x.png',
    }  # fmt: skip
    assert 'the view is L' in reasons['images/b.jpg']
    assert 'CT' in reasons['images/h.png'] and 'CT' in reasons['volumes/i.nii.gz']
    assert 'not listed' in reasons['images/x.png']


def test_the_older_table(tree):
    (tree / 'metadata.csv').write_text(
        'Patientid,finding,view,filename\n2,"COVID-19, ARDS",PA,a.jpg\n3,SARS,AP,c.png\n'
    )
    listing = covid_chestxray.list_items(tree)
    assert listing.names == ('ARDS', 'COVID-19', 'SARS')
    assert [item.labels for item in listing.items] == [(1, 1, 0), (0, 0, 1)]
    assert [item.patient for item in listing.items] == ['2', '3']
    (tree / 'metadata.csv').write_text('patientid,view,filename\n')
    with pytest.raises(UserError, match=r"lacks the columns \['finding'\]"):
        covid_chestxray.list_items(tree)
