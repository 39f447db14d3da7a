"""The shortcut experiment: what its two sets share, and the table of its results."""

import numpy as np
import pytest

from data_pipelines.prepared import loader
from data_pipelines.prepared.data import open_prepared
from scripts import shortcut

IMAGES = 16


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    folders = shortcut.prepare_sets(tmp_path_factory.mktemp('shortcut'), IMAGES)
    return {
        marker: open_prepared(folder, 'synthetic_cxr', shortcut.SIZE)
        for marker, folder in folders.items()
    }


def records(prepared, split):
    corpus = prepared.corpus(split)
    fields = ('image', 'image_id', 'patient', 'label', 'lung_mask')
    batches = list(loader.eval_batches(corpus, 8, labels=corpus.column('labels')))
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


def made_up(right, ail):
    """Ten images of each of two classes; of each the first `right` are recognised."""
    labels = np.repeat([0, 1], 10)
    says = np.where(np.tile(np.arange(10), 2) < right, labels, 1 - labels)
    names = np.array([f'{i:02d}' for i in range(20)])
    return {
        'scores': np.eye(2)[says], 'labels': labels, 'patients': names, 'image_ids': names,
        'ail': np.full(20, ail), 'lung_area': np.full(20, 0.25),
    }  # fmt: skip


def test_the_tables_show_each_model_and_what_the_marker_changes():
    off = {'region': 'full', 'marker': 'off', 'test': made_up(9, 0.5), 'unseen': made_up(8, 0.4)}
    on = {'region': 'full', 'marker': 'on', 'test': made_up(4, 0.3), 'unseen': made_up(10, 0.1)}
    lines = shortcut.render([off, on]).splitlines()
    cells = {line[:12]: line.split(' | ') for line in lines if line.startswith('| full')}
    values = {name: [cell.split(' (')[0] for cell in row] for name, row in cells.items()}
    assert values['| full | off'][2:] == ['90.0 %', '80.0 %', '50.0 %', '40.0 %']
    assert values['| full | on '][2:] == ['40.0 %', '100.0 %', '30.0 %', '10.0 %']
    # On minus off; the unlike order of a model's images does not matter.
    backwards = {name: x[::-1] for name, x in on['test'].items()}
    assert shortcut.render([off, on | {'test': backwards}]).splitlines()[-1] == lines[-1]
    change = [cell.split(' (')[0] for cell in lines[-1].split(' | ')]
    assert (change[1], *change[3:]) == ('-50.0 %', '-20.0 %', '-30.0 %')
    assert '20 test and 20 unseen images' in shortcut.render([off, on])
