"""The shortcut experiment: what its two sets share, and the table of its results."""

import numpy as np
import pytest

from data_pipelines import loader
from data_pipelines.prepared import open_prepared
from scripts import shortcut

IMAGES = 24


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    folders = shortcut.prepare_sets(tmp_path_factory.mktemp('shortcut'), IMAGES)
    return {
        marker: open_prepared(folder, 'synthetic_cxr', shortcut.SIZE)
        for marker, folder in folders.items()
    }


def records(prepared, split):
    fields = ('image', 'image_id', 'patient', 'label', 'lung_mask')
    batches = list(loader.eval_batches(prepared, split, 8))
    return {
        name: np.concatenate([batch[name][batch['valid']] for batch in batches])
        for name in fields
    }


def test_the_sets_differ_in_the_markers_of_train_and_validation_alone(sets):
    for split in ('train', 'validation', 'test'):
        on, off = (records(sets[marker], split) for marker in ('on', 'off'))
        for name in ('image_id', 'patient', 'label', 'lung_mask'):
            np.testing.assert_array_equal(on[name], off[name])
        apart = np.abs(on['image'].astype(int) - off['image']) > 2
        if split == 'test':
            assert not apart.any()
        else:
            assert apart.any()
            # Two markers of 7 % of the side at most, and no difference anywhere else.
            assert apart.mean((1, 2, 3)).max() < 0.05


def figure(value):
    return {'value': value, 'low': value - 0.1, 'high': value + 0.1, 'reason': ''}


def made_up(region, marker, right):
    """A model that is right about the first `right` of ten images of each of two classes."""
    labels = np.repeat([0, 1], 10)
    says = np.where(np.tile(np.arange(10), 2) < right, labels, 1 - labels)
    names = np.array([f'{i:02d}' for i in range(20)])
    return {
        'region': region, 'marker': marker, 'chance': 0.5, 'unseen': figure(0.8),
        'test': figure(right / 10), 'ail': figure(0.3), 'lung_area': figure(0.25),
        'excess': figure(0.05),
        'predictions': {
            'probabilities': np.eye(2)[says], 'labels': labels, 'patients': names,
            'image_ids': names,
        },
    }  # fmt: skip


def test_differences_are_of_the_marked_minus_the_unmarked_model():
    models = [('full', 'off', 9), ('full', 'on', 4), ('background', 'off', 5)]
    rows = [made_up(*model) for model in [*models, ('background', 'on', 5)]]
    compared = shortcut.differences(rows)
    assert [row['region'] for row in compared] == ['full', 'background']
    assert [row['difference']['value'] for row in compared] == pytest.approx([-0.5, 0])
    lines = shortcut.render(rows, compared).splitlines()
    assert '| full | off | 90.0 % [80.0 to 100.0 %] | 80.0 % [70.0 to 90.0 %] |' in lines[4]
    assert lines[4].endswith('| 30.0 % [20.0 to 40.0 %] | 25.0 % [15.0 to 35.0 %] | '
                             '5.0 % [-5.0 to 15.0 %] |')  # fmt: skip
    assert any(line.startswith('| full | -50.0 % [') for line in lines)
