"""Parts of a prepared set: chosen classes, a share of the training images, accepted masks."""

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.prepared.loader import eval_batches, train_batches


def records(data, split):
    """{image id: label} and the images in stored order."""
    batches = list(eval_batches(data, split, 7))
    rows = [{k: b[k][b['valid']] for k in ('image_id', 'label', 'image')} for b in batches]
    return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}


def test_chosen_classes_are_renumbered_in_their_order(tiny_data):
    chosen = tiny_data.of_classes(('typical', 'negative'))
    assert chosen.classes == ('typical', 'negative')
    for split in tiny_data.counts:
        whole, part = records(tiny_data, split), records(chosen, split)
        kept = np.isin(whole['label'], [0, 1])
        np.testing.assert_array_equal(part['image_id'], whole['image_id'][kept])
        np.testing.assert_array_equal(part['image'], whole['image'][kept])
        np.testing.assert_array_equal(part['label'], 1 - whole['label'][kept])
        assert chosen.counts[split] == kept.sum()
        assert chosen.class_counts[split] == tiny_data.class_counts[split][1::-1]
    again = chosen.of_classes(('negative', 'typical'))
    swapped = 1 - records(chosen, 'test')['label']
    np.testing.assert_array_equal(records(again, 'test')['label'], swapped)
    assert len({tiny_data.fingerprint, chosen.fingerprint, again.fingerprint}) == 3


def test_training_batches_come_from_the_chosen_images_alone(tiny_data):
    chosen = tiny_data.of_classes(('negative', 'atypical'))
    allowed = {image.tobytes() for image in records(chosen, 'train')['image']}
    batches = train_batches(chosen, 'train', chosen.counts['train'], seed=3)
    batch = next(batches)
    assert {image.tobytes() for image in batch['image']} == allowed
    assert set(batch['label'].tolist()) == {0, 1}


@pytest.mark.parametrize(
    'names', [('negative',), ('negative', 'negative'), ('negative', 'covid'), ()]
)
def test_classes_that_cannot_be_chosen(names, tiny_data):
    with pytest.raises(UserError, match='two or more different ones of negative, typical'):
        tiny_data.of_classes(names)


def test_a_share_is_of_training_images_only_and_depends_on_its_seed(tiny_data):
    part = tiny_data.share(0.5, seed=1)
    whole = set(records(tiny_data, 'train')['image_id'])
    chosen = records(part, 'train')
    assert part.counts == tiny_data.counts | {'train': 17} and len(whole) == 34
    assert len(set(chosen['image_id'])) == 17 and set(chosen['image_id']) < whole
    counts = np.bincount(chosen['label'], minlength=4).tolist()
    assert part.class_counts == tiny_data.class_counts | {'train': counts}
    same, other = tiny_data.share(0.5, seed=1), tiny_data.share(0.5, seed=2)
    assert same.fingerprint == part.fingerprint != other.fingerprint != tiny_data.fingerprint
    assert tiny_data.share(1e-9, seed=1).counts['train'] == 1
