"""What pretext stages make of images, as the report shows it."""

from types import SimpleNamespace

import numpy as np

from cxr_jax.run.pictures import IMAGES, pictures_of, pretext_pictures
from tests import tiny


def test_a_stage_draws_the_same_picture_trained_and_reused(undisturbed):
    stage, outcome, directory = undisturbed('genesis')
    reused = tiny.run(stage, directory.finished.parent, around=tiny.no_training)
    assert reused.reused and not outcome.reused
    drawn = pictures_of(stage, outcome)
    assert list(drawn) == ['clean', 'distorted', 'restored']
    count = min(IMAGES, stage.validation.images)
    assert {rows.shape for rows in drawn.values()} == {(count, 32, 32, 1)}
    for title, rows in pictures_of(stage, reused).items():
        np.testing.assert_array_equal(rows, drawn[title])
        assert rows.min() >= 0 and rows.max() <= 1 and np.ptp(rows) > 0
    assert len(np.unique(drawn['clean'], axis=0)) == count
    assert abs(drawn['clean'] - drawn['distorted']).max() > 0.1


def test_only_stages_that_draw_are_in_it(undisturbed):
    stage, outcome, _ = undisturbed('genesis')
    other, its_outcome, _ = undisturbed('rot')
    plan = SimpleNamespace(branches=[SimpleNamespace(stages=[other, stage])])
    assert list(pretext_pictures(plan, [[its_outcome, outcome]])) == ['genesis']
