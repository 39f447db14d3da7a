import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.tasks.base import Facts
from cxr_jax.tasks.moco import MoCo, info_nce
from cxr_jax.tasks.relloc import RelativeLocation
from cxr_jax.tasks.rot import Rotation
from cxr_jax.tasks.swav import SwAV, sinkhorn
from data_pipelines.errors import UserError


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def facts(**changes):
    known = {
        'images': 1000,
        'batch_size': 64,
        'steps_per_epoch': 15,
        'total_steps': 150,
        'devices': 1,
        'feature_width': 512,
        'names': ('a', 'b'),
    }
    return Facts(**(known | changes))


def test_info_nce_of_equal_similarities_is_chance():
    rows = jnp.tile(unit(jnp.ones((1, 4))), (16, 1))
    assert info_nce(rows[:3], rows[:3], rows, 0.2) == pytest.approx(
        MoCo(queue_size=16).chance_loss(), rel=1e-6
    )


def test_sinkhorn_balances_prototypes_and_survives_extreme_scores():
    scores = jax.random.uniform(jax.random.key(0), (40, 5), minval=-1.0)
    assignments = sinkhorn(scores, 0.05, 200)
    np.testing.assert_allclose(assignments.sum(1), np.ones(40), rtol=1e-4)
    np.testing.assert_allclose(assignments.sum(0), np.full(5, 8.0), rtol=1e-3)
    assert np.isfinite(sinkhorn(scores * 100, 0.001, 3)).all()


def test_rotation_labels_count_quarter_turns():
    """The four views of one example are one crop, turned as often as their label says."""
    image = jax.random.uniform(jax.random.key(1), (24, 24, 1))
    task = Rotation(image_size=16)
    views = task.views(jax.random.key(2), {'image': image})
    for label, view in zip(views['label'], views['image'], strict=True):
        np.testing.assert_array_equal(view, np.rot90(views['image'][0], int(label)))
    # Counter-clockwise: the top right corner arrives top left after one turn.
    assert views['image'][1][0, 0] == views['image'][0][0, -1]


def test_swav_queue_keeps_newest_batches_first():
    task = SwAV(queue_size=6, features=2, queue_start_step=1)
    queue = jnp.zeros((2, 6, 2))
    batches = [jnp.full((2, 2, 2), float(i)) for i in range(6)]
    for step, batch in enumerate(batches):
        queue = task._enqueue(queue, batch, step)
        newest = [step - i if step - i >= 1 else 0 for i in range(3)]
        np.testing.assert_array_equal(queue[0, :, 0], np.repeat(newest, 2))


def test_auto_values_follow_the_data():
    moco, notes = MoCo(queue_size='auto').resolve(facts())
    assert moco.queue_size == 960 and 'batch 64' in notes['queue_size']
    assert moco.hidden == 512
    swav, _ = SwAV(queue_size='auto', prototypes='auto', queue_start_epoch=2.0).resolve(facts())
    assert (swav.queue_size, swav.prototypes, swav.queue_start_step) == (960, 512, 30)
    assert swav.frozen(facts()) == {'prototypes': 15}


@pytest.mark.parametrize(
    ('task', 'words'),
    [
        (MoCo(queue_size=100), 'not a multiple of the batch size 64'),
        (MoCo(queue_size=65536), 'larger than the 1000 training images'),
        (MoCo(queue_size=64, key_groups=3), 'key_groups=3 must divide'),
        (RelativeLocation(image_size=3, jitter=0.9), 'patches of no pixel'),
    ],
)
def test_impossible_settings_are_refused(task, words):
    with pytest.raises(UserError, match=words):
        task.resolve(facts())


def test_swav_prototypes_are_brought_back_to_unit_length():
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    params = {'encoder': {'kernel': rows}, 'prototypes': {'rows': rows}}
    after, extra = SwAV().after_update(params, {'queue': rows}, 3)
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(after['prototypes']['rows'], expected, rtol=1e-6)
    assert after['encoder']['kernel'] is rows and extra['queue'] is rows
