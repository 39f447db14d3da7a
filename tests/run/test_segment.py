"""The programs `segment train` and `segment apply`."""

import json
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.segment import get_config
from cxr_jax import segment
from cxr_jax.evaluation.measures.segmentation import dice_and_iou
from cxr_jax.report.segmentation import choose
from cxr_jax.run import segmenter
from cxr_jax.store.bundle import read_description
from cxr_jax.store.inspection import find_stage
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.loader import eval_batches
from tests import tiny


def small_config(data, **changes) -> ConfigDict:
    config = get_config()
    config.update_from_flattened_dict({
        'data.dir': str(data.data_dir), 'data.size': tiny.SIZE, 'network.width': 4,
        'network.depth': 2, 'eval.batch_size': 16, 'eval.resamples': 50,
        'stage.segment.epochs': 3, 'stage.segment.batch_size': 8,
        'stage.segment.task.image_size': tiny.SIZE,
    } | changes)  # fmt: skip
    return ConfigDict(config.to_dict())


def make_stage(data, **changes):
    settings, stage = segmenter.read_config(small_config(data, **changes))
    (train, _), *_ = segment.masked_parts(data, 0)
    return segmenter.make_stage(settings, stage, train, 1)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    mesh = tiny.one_device()
    monkeypatch.setattr(segment.parallel, 'data_mesh', lambda devices=None: mesh)


@pytest.fixture(scope='module')
def trained(tiny_data, tmp_path_factory):
    """(results, workdir) of `segment train`."""
    workdir = tmp_path_factory.mktemp('segment') / 'runs' / 'segment'
    with pytest.MonkeyPatch.context() as patch:
        mesh = tiny.one_device()
        patch.setattr(segment.parallel, 'data_mesh', lambda devices=None: mesh)
        return segment.train(small_config(tiny_data), tiny_data, workdir, 'the command'), workdir


def test_train_reports_saves_and_finds_itself_finished(tiny_data, trained, capsys):
    results, workdir = trained
    test = json.loads((workdir / 'results.json').read_text())['test']
    assert test['images'] == tiny_data.card['counts']['test']
    assert 0 <= test['dice']['low'] <= test['dice']['value'] <= test['dice']['high'] <= 1
    page = (workdir / 'results.md').read_text()
    assert f'{test["dice"]["value"]:.3f}' in page and 'the command' in page
    assert all((workdir / name).is_file() for name in ('gallery.png', 'curves.png'))
    for changes in ({}, {'stage.segment.checkpoint_epochs': 1.0, 'eval.batch_size': 8}):
        found = segment.train(small_config(tiny_data, **changes), tiny_data, workdir, 'another')
        assert found['test'] == test and found['command'] == 'the command'
    assert f'{test["dice"]["value"]:.3f}' in capsys.readouterr().out
    with pytest.raises(UserError, match='other settings'):
        segment.train(small_config(tiny_data, seed=1), tiny_data, workdir, '')
    # The stage itself is shared: only the test is made again.
    again = segment.train(
        small_config(tiny_data, **{'eval.resamples': 60}), tiny_data, workdir.with_name('more'), ''
    )
    assert [stage['reused'] for stage in again['stages']] == [True]
    assert again['test']['dice']['value'] == test['dice']['value']


def test_the_bundle_predicts_what_was_tested(tiny_data, trained, tmp_path):
    results, workdir = trained
    folder = find_stage(workdir)
    assert folder.name == results['bundles'][0] and (folder / 'encoder.safetensors').is_file()
    copy = shutil.copytree(folder, tmp_path / 'copy')
    for place in (folder, copy):
        predict, origin = segmenter.load(place, 16, tiny.one_device())
        dice = [
            dice_and_iou(mask, record['lung_mask'][..., 0])[0]
            for record, mask in segmenter.predicted_masks(predict, tiny_data.corpus('test'), 16)
        ]
        assert np.mean(dice) == pytest.approx(results['test']['raw_dice']['value'])
        assert origin['key'] == results['stages'][0]['key']
    described = read_description(folder)
    assert origin['params_sha256'] == described['params_sha256']
    # Not a curriculum's encoder: its images are standardised one by one, of any size.
    assert (described['task'], described['contract']['size']) == ('segment', None)


def test_every_masked_image_is_tested_once_by_folds_of_patients(tiny_data):
    parts = segment.masked_parts(tiny_data, 4)
    n = len(tiny_data.index)
    tested = np.concatenate([part.column('image_id') for _, part in parts])
    assert sorted(tested) == sorted(tiny_data.index.image_id) and len(parts) == 4
    for train, test in parts:
        assert len(train) + len(test) == n
        assert not np.intersect1d(train.groups, test.groups).size
    ((train, test),) = segment.masked_parts(tiny_data, 0)
    for part, split in ((train, 'train'), (test, 'test')):
        assert (part.column('split') == split).all()
        assert len(part) == tiny_data.card['counts'][split]


def test_images_without_a_mask_are_left_out(sets):
    """Of c all have one, of f none."""
    ((train, test),) = segment.masked_parts(sets['c'], 0)
    assert (len(train), len(test)) == (84, 24)
    with pytest.raises(UserError, match='No image of the train split .* has a lung mask'):
        segment.masked_parts(sets['f'], 0)


def test_apply_writes_masks_that_a_curriculum_can_open(tiny_data, capsys):
    truth = {}
    for batch in eval_batches(tiny_data.corpus(), 16):
        for image, mask in zip(batch['image'], batch['lung_mask'], strict=True):
            truth[image.tobytes()] = mask[..., 0]
    spoilt = tiny_data.read([int(np.flatnonzero(tiny_data.index.split == 'train')[0])], ('image',))
    truth[spoilt[0]['image'].tobytes()] = np.zeros((tiny.SIZE, tiny.SIZE), np.uint8)

    def predict(images):
        return np.stack([truth[image.tobytes()] for image in images]) > 0

    settings, _ = segmenter.read_config(small_config(tiny_data))
    card = segment.apply(settings, tiny_data, 'oracle', predict, {'model': 'true'})
    printed = capsys.readouterr().out
    assert 'no lung found' in printed and card['reasons']['no lung found'] == 1
    opened = open_prepared(tiny_data.data_dir, tiny_data.name, tiny_data.size, 'oracle')
    counts = tiny_data.card['counts']
    assert len(opened.corpus('train')) == counts['train'] - 1
    assert len(opened.corpus('test')) == counts['test']
    for batch in eval_batches(opened.corpus('train'), 8):
        for image, mask in zip(batch['image'], batch['lung_mask'], strict=True):
            assert dice_and_iou(mask[..., 0], truth[image.tobytes()])[0] > 0.98
    plan = tiny.make_plan(tiny_data, 'rot', **{'data.masks': 'oracle', 'data.region': 'lungs_gray'})
    assert plan.stages[0].train.images == counts['train'] - 1


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        ({'stage.segment.task.image_size': 36}, 'multiple of 8'),
        ({'stage.segment.batch_size': 1000}, 'at most the'),
        ({'folds': 1}, 'folds'),
        ({'folds': 1000}, 'cannot be shared out'),
        ({'network.width': 0}, 'network.width'),
        ({'network.dtype': 'float8'}, 'network.dtype'),
        ({'eval.batch_size': 0}, 'eval.batch_size'),
        ({'stage.segment.optimizer.name': 'adam'}, 'sgd, lars, larc, adamw'),
        ({'stage.segment.optimizer.schedule': 'linear'}, 'cosine, step, constant'),
        ({'stage.segment.optimizer.lr': -1.0}, 'optimizer.lr=-1.0'),
        ({'stage.segment.optimizer.lr': float('nan')}, 'finite'),
        ({'stage.segment.optimizer.momentum': 1.5}, 'below 1'),
        ({'stage.segment.epochs': 0}, 'epochs=0'),
        ({'stage.segment.task.rotation': 360.0}, 'rotation'),
        ({'stage.segment.task.crop_scale': (1.0, 0.5)}, 'the lower one first'),
        ({'keep': 'some'}, 'bundle, all'),
    ],
)
def test_impossible_settings_are_refused_before_training(changes, word, tiny_data, tmp_path):
    with pytest.raises(UserError, match=word):
        segment.train(small_config(tiny_data, **changes), tiny_data, tmp_path / 'run', '')
    assert not list(tmp_path.iterdir())


def test_there_are_no_settings_without_an_effect(tiny_data):
    """Its rate is not searched, and it reads what has a mask."""
    stage = get_config().stage.segment
    assert 'search' not in stage and 'data' not in stage


@pytest.mark.parametrize(
    ('field', 'value'),
    [('name', 'adamw'), ('name', 'lars'), ('schedule', 'constant'), ('clip', 1e-3),
     ('momentum', 0.0), ('weight_decay', 0.5)],
)  # fmt: skip
def test_the_optimiser_that_is_named_is_the_one_that_trains(field, value, tiny_data):
    """One step from the same start: what changes is not what SGD alone would change."""
    plain = {'stage.segment.optimizer.warmup_epochs': 0.0, 'stage.segment.epochs': 1,
             'stage.segment.optimizer.lr': 0.01}  # fmt: skip
    asked = make_stage(tiny_data, **plain, **{f'stage.segment.optimizer.{field}': value})
    default = make_stage(tiny_data, **plain)
    assert asked.key != default.key
    found = [tree_of_updates(stage, steps=3) for stage in (asked, default)]
    assert not np.allclose(*found, rtol=1e-3, atol=0)
    if value == 'adamw':
        # The first step of Adam is the sign of the gradient, whatever its size.
        first = tree_of_updates(asked, steps=1)
        np.testing.assert_allclose(np.abs(first), 1, rtol=1e-2)


def tree_of_updates(stage, steps: int) -> np.ndarray:
    """What the program's optimiser makes of steps with made-up gradients, times its schedule."""
    from cxr_jax.train.optim import optimizer, rate_factor

    params = {'encoder': {'kernel': np.ones((2, 2), np.float32)}}
    grads = {'encoder': {'kernel': np.array([[0.3, -0.2], [0.1, 0.7]], np.float32)}}
    transform = optimizer(stage.optimizer, stage.task.frozen(stage.facts))
    factor = rate_factor(stage.optimizer, stage.total_steps, stage.facts.steps_per_epoch)
    state = transform.init(params)
    for step in range(steps):
        updates, state = transform.update(grads, state, params)
        found = np.asarray(updates['encoder']['kernel']) * float(factor(step))
    return found.ravel()


def test_a_folder_without_segmenter_is_explained(tmp_path, undisturbed):
    with pytest.raises(UserError, match='bundle.json'):
        segmenter.load(tmp_path, 8, tiny.one_device())
    _, _, directory = undisturbed('rot')
    with pytest.raises(UserError, match=r'holds a rot, not a segmenter.*segment train'):
        segmenter.load(directory.finished, 8, tiny.one_device())


def test_a_segmenter_is_no_encoder_to_start_from(trained, tiny_data):
    results, workdir = trained
    folder = workdir.parent / 'stages' / results['bundles'][0]
    with pytest.raises(UserError, match='was trained on images of size None'):
        tiny.make_plan(tiny_data, 'rot', **{'encoder.weights': str(folder)})


def test_the_gallery_shows_both_ends():
    rows = [{'dice': d} for d in np.random.default_rng(0).permutation(40) / 40]
    shown = [row['dice'] for row in choose(rows)]
    assert shown == sorted(shown) and len(shown) == 12
    assert shown[:4] == [0, 1 / 40, 2 / 40, 3 / 40] and shown[-1] == 39 / 40
    assert choose(rows[:5]) == sorted(rows[:5], key=lambda row: row['dice'])


def test_unknown_presets_are_refused():
    assert get_config('full').stage.segment.task.image_size == 256
    with pytest.raises(UserError, match='demo, full'):
        get_config('small')
