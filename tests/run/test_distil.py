"""A stage that keeps what the one before has learnt: planned, trained, resumed, handed over."""

import shutil

import numpy as np
import pytest

from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import trees
from cxr_jax.store.bundle import OWN, read_description, read_parts, write_bundle
from cxr_jax.store.stages import StageDirectory
from data_pipelines.errors import UserError
from tests import tiny

LWF = {'stage.rot2.distil': 'lwf', 'stage.rot2.distil_weight': 0.5}


def keys(data, tasks='rot_moco', **changes):
    return [each.key for each in tiny.make_stages(data, tasks, **changes).values()]


@pytest.mark.parametrize(
    ('changes', 'first'),
    [
        ({'stage.moco.distil_weight': 3.0, 'stage.moco.distil_temperature': 3.0}, 3),
        ({'stage.moco.distil': 'features'}, 1),
        ({'stage.classify.distil': 'cassle'}, 2),
    ],
)
def test_a_key_is_of_what_is_distilled(changes, first, tiny_data):
    """From stage number `first` on; what is switched off is no part of it."""
    pairs = zip(keys(tiny_data), keys(tiny_data, **changes), strict=True)
    assert [a == b for a, b in pairs] == [number < first for number in range(3)]


def test_a_temperature_counts_where_there_is_one(tiny_data):
    warm = {'stage.moco.distil_temperature': 4.0}
    for kind, same in (('cassle', True), ('lwf', False)):
        cold = {'stage.moco.distil': kind}
        assert (keys(tiny_data, **cold) == keys(tiny_data, **cold, **warm)) == same


@pytest.mark.parametrize(
    ('tasks', 'changes', 'told'),
    [
        ('moco', {'stage.moco.distil': 'features'}, 'moco is the first stage of a fresh encoder'),
        ('scratch', {'stage.classify.distil': 'cassle'}, 'classify is the first stage'),
        ('moco', {'stage.classify.distil': 'lwf'}, 'left by moco, which has none.*rot, classify'),
        ('rot_relloc', {'stage.classify.distil': 'lwf'}, 'left by relloc.*can follow rot'),
        ('rot', {'stage.classify.distil': 'kd'}, 'none, features, cassle, lwf'),
        ('rot', {'stage.probe.distil': 'features'}, 'probe leaves the encoder as it is'),
    ],
)
def test_what_cannot_be_distilled_is_told_when_the_run_is_planned(tasks, changes, told, tiny_data):
    with pytest.raises(UserError, match=f'--config.stage.{next(iter(changes))[6:]}.*{told}'):
        readout = 'probe' if 'probe' in next(iter(changes)) else 'classify'
        tiny.make_plan(tiny_data, tasks, readout, **changes)


def copied(folder, to, task='rot', change=0.0):
    """A copy of the bundle whose head differs by `change`, as if `task` had left it."""
    described, parts = read_description(folder), read_parts(folder)
    linear = parts['head']['params']['linear']
    parts['head']['params']['linear'] = linear | {'bias': linear['bias'] + np.float32(change)}
    told = {name: value for name, value in described.items() if name not in OWN}
    to.mkdir()
    write_bundle(to, parts, told | {'task': task})
    return str(to)


def test_a_first_stage_keeps_what_the_bundle_has_that_it_starts_from(
    tiny_data, undisturbed, tmp_path
):
    folder = undisturbed('rot')[2].finished
    same, other = copied(folder, tmp_path / 'same'), copied(folder, tmp_path / 'other', change=1.0)

    def planned(weights, **changes):
        return tiny.make_stages(tiny_data, 'moco', **{'encoder.weights': weights} | changes)['moco']

    lwf = {'stage.moco.distil': 'lwf'}
    assert planned(str(folder), **lwf).distillation.exclusive
    # The head is a part of what is learnt from where its answers are kept, and only there.
    assert planned(same, **lwf).key == planned(str(folder), **lwf).key != planned(other, **lwf).key
    features = {'stage.moco.distil': 'features'}
    assert planned(same, **features).key == planned(other, **features).key
    findings = copied(folder, tmp_path / 'findings', task='findings')
    assert not planned(findings, **lwf).distillation.exclusive
    swav = copied(folder, tmp_path / 'swav', task='swav')
    with pytest.raises(UserError, match='left by swav'):
        planned(swav, **lwf)
    published = tmp_path / 'file.safetensors'
    shutil.copy(folder / 'encoder.safetensors', published)
    assert planned(str(published), **features).distillation.kind == 'features'
    with pytest.raises(UserError, match='left by a file of weights'):
        planned(str(published), **lwf)


@pytest.fixture(scope='module')
def second(tiny_data, undisturbed, tmp_path_factory):
    """(Stage, parts of the stage before, Outcome, StageDirectory): rotations after rotations."""
    parts, store = undisturbed('rot')[1].parts, tmp_path_factory.mktemp('second')
    each = tiny.make_stages(tiny_data, 'rot_rot', **LWF)['rot2']
    outcome = tiny.run(each, store, parts)
    return each, parts, outcome, StageDirectory(store, each.name, each.key)


def test_both_terms_are_logged_and_the_teacher_is_not_left(second, tiny_data):
    each, parts, outcome, directory = second
    for row in outcome.metrics:
        total = row['task_loss'] + 0.5 * row['distil_loss']
        assert row['loss'] == pytest.approx(total, rel=1e-5)
    assert len({row['distil_loss'] for row in outcome.metrics}) == tiny.STEPS
    assert outcome.parts.keys() == {'encoder', 'head'}
    state = tiny.saved(directory.finished)
    for part, tree in parts.items():
        for name, leaf in trees.by_name(tree).items():
            np.testing.assert_array_equal(state[f'extra/distil/{part}/{name}'], leaf)
    [note] = [n for n in tiny.make_plan(tiny_data, 'rot_rot', **LWF).notes['rot2']
              if 'distil' in n]  # fmt: skip
    assert note == 'distil = lwf (keeps what rot has left)'


def test_interrupted_equals_uninterrupted(second, tmp_path):
    each, parts, _, directory = second
    with pytest.raises(Interrupted, match='step 5 of 8'):
        tiny.run(each, tmp_path, parts, around=tiny.sigterm_at(5))
    tiny.run(each, tmp_path, parts)
    tiny.assert_same_training(StageDirectory(tmp_path, each.name, each.key), directory)
