"""Order labels against results written out by hand."""

import pytest

from cxr_jax.study.order import label_order

ALONE = {'rot': 0.5, 'tie': 0.5, 'swav': 0.6, 'moco': 0.7}


@pytest.mark.parametrize(
    ('tasks', 'label'),
    [
        ('rot moco', 'curriculum'), ('moco rot', 'anti-curriculum'), ('rot moco swav', 'mixed'),
        ('rot swav moco', 'curriculum'), ('moco swav rot', 'anti-curriculum'),
        ('rot tie', 'mixed'), ('rot', ''), ('', ''), ('rot unknown', ''),
        ('rot tie swav moco', 'full mixed'), ('rot tie swav moco unknown', 'full'),
    ],
)  # fmt: skip
def test_order_labels(tasks, label):
    assert label_order(tasks.split(), ALONE, ALONE) == label


def test_full_curricula_keep_their_order():
    alone = {'rot': 0.5, 'swav': 0.6}
    assert label_order(['rot', 'swav'], alone, alone) == 'full curriculum'
    assert label_order(['swav', 'rot'], alone, alone) == 'full anti-curriculum'
    assert label_order(['rot', 'swav'], {'rot': 0.5, 'swav': None}, alone) == 'full'
