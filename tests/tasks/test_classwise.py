"""Class-wise curriculum: which classes are in, by how easy they are, and what is trained on."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from cxr_jax.models.encoder import Features
from cxr_jax.store.identity import active
from cxr_jax.tasks.classify import Classify
from cxr_jax.tasks.classwise import ClassWise
from data_pipelines.errors import UserError
from tests.tasks.one_step import State, facts, run_loss

IMAGES, CLASSES, WIDTH = 16, 4, 5
SELF = ClassWise('self', start=0.5, increment=0.25, every=2)
TASK = Classify(outputs=CLASSES, classwise=SELF, weights=(0.5, 2.0, 1.0, 1.5))


@pytest.mark.parametrize(
    ('curriculum', 'classes', 'expected'),
    [
        (SELF, 4, [4, 2, 2, 3, 3, 4, 4, 4]),
        # One class alone is never trained on, and at least one is added.
        (ClassWise('self', start=0.1, increment=0.01, every=1), 5, [5, 2, 3, 4, 5, 5]),
        # The last step would go beyond all of them.
        (ClassWise('self', start=0.5, increment=0.4, every=3), 5, [5, 3, 3, 3, 5, 5]),
        (ClassWise('self', start=1.0), 4, [4, 4, 4]),
    ],
)
def test_how_many_classes_are_in(curriculum, classes, expected):
    found = [curriculum.number(epoch, classes) for epoch in range(len(expected))]
    assert found == expected
    whole = next(e for e in range(1, len(expected)) if min(expected[e:]) == classes)
    assert curriculum.told(classes, 99).endswith(f' all of them after {whole} epochs')


@pytest.mark.parametrize(
    ('order', 'expected'), [('self', {3, 1}), ('teacher', {0, 2}), ('anti', {1, 3})]
)
def test_which_classes_are_in(order, expected):
    """Those of the lowest losses of the network itself or of the teacher, or its highest."""
    curriculum = dataclasses.replace(SELF, order=order, teacher_losses=(0.1, 0.8, 0.3, 0.7))
    mask = curriculum.mask(1, np.array([0.9, 0.4, 0.6, 0.2]))
    assert set(np.flatnonzero(mask)) == expected and mask.sum() == 2
    np.testing.assert_array_equal(curriculum.mask(0, np.ones(4)), np.ones(4))


def test_equally_easy_classes_come_in_their_order():
    np.testing.assert_array_equal(SELF.mask(1, np.ones(4)), [1, 1, 0, 0])


def test_an_epoch_ends():
    """Means of what was summed up; a class that was not drawn keeps its loss; sums start anew."""
    extra = jax.device_get(SELF.begin(CLASSES))
    np.testing.assert_allclose(extra['class_loss'], math.log(4))
    extra['class_sums'] = np.array([[6.0, 0.0, 1.0, 50.0], [4, 0, 2, 10]], np.float32)
    found = SELF.next(extra, 1)
    np.testing.assert_allclose(found['class_loss'], [1.5, math.log(4), 0.5, 5.0])
    np.testing.assert_array_equal(found['class_mask'], [0, 1, 1, 0])
    np.testing.assert_array_equal(found['class_sums'], np.zeros((2, 4)))
    for name, array in extra.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
    state = State(extra=extra)
    assert TASK.pauses and TASK.between(state, 0, None) is state
    np.testing.assert_array_equal(
        TASK.between(state, 1, None).extra['class_mask'], found['class_mask']
    )


def given_features(params, batch_stats, images):
    """An encoder that passes features on."""
    return Features({'last': images}, images * params, {})


def drawn(mask):
    rng = np.random.default_rng(0)
    head = {'kernel': rng.normal(size=(WIDTH, CLASSES)), 'bias': rng.normal(size=CLASSES)}
    head = {name: values.astype(np.float32) for name, values in head.items()}
    extra = {
        'class_mask': np.array(mask, np.float32),
        'class_loss': np.arange(CLASSES, dtype=np.float32),
        'class_sums': np.ones((2, CLASSES), np.float32),
    }
    features = rng.normal(size=(IMAGES, WIDTH)).astype(np.float32)
    # Of the first device's images none is of a class that is in.
    labels = np.concatenate([np.full(4, 3), rng.integers(0, CLASSES, IMAGES - 4)]).astype(np.int32)
    params = {'encoder': np.ones((), np.float32), 'head': {'linear': head}}
    stats = {'encoder': {}, 'head': {}}
    state = State(params=params, batch_stats=stats, extra=extra, step=0)
    return state, {'image': features, 'label': labels}


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('mask', [(1, 0, 1, 0), (0, 0, 0, 0)])
def test_a_step(mask, devices):
    """The loss is weighted and of the classes that are in (all, if none of them is in the batch);
    what is summed up is neither."""
    state, views = drawn(mask)
    head = state.params['head']['linear']
    logits = views['image'].astype(float) @ head['kernel'] + head['bias']
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = views['label']
    plain = -np.log(shares[np.arange(IMAGES), labels])
    rows = np.flatnonzero(np.array(mask)[labels]) if any(mask) else np.arange(IMAGES)
    weights = np.array(TASK.weights)[labels[rows]]
    result = run_loss(TASK, given_features, state, views, devices)
    assert result.loss == pytest.approx((weights * plain[rows]).mean(), rel=1e-5)
    slope = shares[rows] - np.eye(CLASSES)[labels[rows]]
    expected = views['image'][rows].T @ (slope * weights[:, None]) / len(rows)
    found = result.gradients['head']['linear']['kernel']
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    sums = [[plain[labels == c].sum(), (labels == c).sum()] for c in range(CLASSES)]
    np.testing.assert_allclose(result.extra['class_sums'] - 1, np.transpose(sums), rtol=1e-5)
    assert result.metrics['classes'] == sum(mask) and result.metrics['class_loss_2'] == 2


@pytest.mark.parametrize(
    ('curriculum', 'names', 'message'),
    [
        (SELF, 'ab', r'order=self has no order to follow with 2 classes'),
        (ClassWise('teacher'), 'abcd', r'teacher_losses has 0 numbers for 4 classes'),
        (ClassWise('anti', teacher_losses=(1.0, 2.0)), 'abc', r'2 numbers for 3 classes'),
    ],
)
def test_what_cannot_be_ordered_is_refused(curriculum, names, message):
    with pytest.raises(UserError, match=message):
        Classify(classwise=curriculum).resolve(facts(names=tuple(names)))


@pytest.mark.parametrize(
    ('epochs', 'end'),
    [
        (6, ', all of them after 5 epochs'),
        (5, '; still out at the end: 1, all would be in after 5 epochs'),
        (3, '; still out at the end: 2, all would be in after 5 epochs'),
    ],
)
def test_it_tells_when_which_classes_are_in(epochs, end):
    known = facts(names=tuple('abcd'), total_steps=8 * epochs)
    _, notes = Classify(classwise=SELF).resolve(known)
    assert notes['classwise'] == f'2 of 4 classes from the second epoch on{end}'


def test_weights_follow_the_images_of_the_classes():
    counts = ((90, 10), (40, 60), (70, 30))
    task, notes = Classify(class_weights='balanced').resolve(facts(counts=counts))
    assert task.weights == pytest.approx((100 / 30, 100 / 180, 100 / 90))
    assert notes['class_weights'] == '3.33, 0.556, 1.11'
    assert Classify().resolve(facts(counts=counts))[0].weights == ()


def test_what_is_off_is_no_part_of_a_key():
    plain = active(Classify())
    assert plain.keys().isdisjoint({'classwise', 'class_weights', 'focal', 'smoothing', 'weights'})
    assert active(Classify(classwise=ClassWise(start=0.9, every=2))) == plain
    assert active(Classify(classwise=SELF))['classwise'] == {
        'order': 'self', 'start': 0.5, 'increment': 0.25, 'every': 2
    }  # fmt: skip
    assert not Classify().pauses
