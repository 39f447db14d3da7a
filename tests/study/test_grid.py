"""Grids: which cells there are, what they set, what they are called."""

import itertools

import pytest
from ml_collections import ConfigDict

from configs import study
from cxr_jax.study import grid
from cxr_jax.study.grid import Axis, Layout, axes_of, cells, file_name, layout_of, run_config
from data_pipelines.errors import UserError

TASKS = dict.fromkeys(('moco', 'rot', 'relloc'))


@pytest.fixture(autouse=True)
def three_tasks(monkeypatch):
    monkeypatch.setattr(grid, 'TASKS', TASKS)
    monkeypatch.setattr(study, 'TASKS', TASKS)


@pytest.fixture
def run_of_all():
    """A config with the fields of a run that the grids below set."""
    stages = {name: {'epochs': 2, 'optimizer': {'lr': 0.1}} for name in (*TASKS, 'classify')}
    return ConfigDict({
        'curriculum': ('moco', 'rot', 'relloc'), 'seed': 0,
        'data': {'region': 'full', 'classes': (), 'label_fraction': 1.0},
        'encoder': {'weights': ''}, 'stage': stages,
    })  # fmt: skip


@pytest.fixture
def make(monkeypatch, run_of_all):
    """The study's config over these axes, with flat changes."""
    monkeypatch.setattr(study.curriculum, 'get_config', lambda argument: run_of_all)

    def of(changes=(), **axes):
        config = study.study('name', 'demo', **axes)
        config.update_from_flattened_dict(dict(changes))
        return config

    return of


def test_cells_are_the_product_with_the_first_axis_innermost():
    axes = [
        Axis('curriculum', {'scratch': {'curriculum': ()}, 'moco': {'curriculum': ('moco',)}}),
        Axis('region', {'full': {'data.region': 'full'}, 'black': {'data.region': 'lungs_black'}}),
        Axis('epochs', {'few': {'stage.moco.epochs': 1}}),
    ]
    found = cells(axes, (3, 4, 3))
    names = [(*cell.levels.values(), cell.seed) for cell in found]
    assert names == [
        (tasks, region, 'few', seed)
        for region, seed, tasks in itertools.product(('full', 'black'), (3, 4), ('scratch', 'moco'))
    ]
    assert found[-1].overrides == {
        'curriculum': ('moco',), 'data.region': 'lungs_black', 'stage.moco.epochs': 1,
    }  # fmt: skip
    assert found[0].title == 'scratch, region full, epochs few, seed 3'
    assert found[0].folder == 'epochs=few/region=full/curriculum=scratch,seed=3'
    assert found[0].without('region', 'curriculum') == {'epochs': 'few'}


def test_two_axes_may_set_one_field_only_to_the_same_value():
    first = Axis('size', {'small': {'data.size': 64, 'stage.moco.epochs': 1}})
    same, other = (Axis('b', {'x': {'data.size': size}}) for size in (64, 128))
    assert cells([first, same], (0,))[0].overrides == {'data.size': 64, 'stage.moco.epochs': 1}
    with pytest.raises(UserError, match='axes size and b both set data.size, to 64 and 128'):
        cells([first, other], (0,))


def test_levels_chosen_by_name_by_value_and_by_tasks(make):
    config = make(
        curriculum=('scratch', 'moco', ('twice', (('curriculum', ('moco', 'moco2')),))),
        region=study.over('data.region', ('full', 'lungs_black')),
        classes=study.over('data.classes', ((), ('a', 'b'))),
        share=study.over('data.label_fraction', (0.05, 1.0)),
    )
    assert config.axes.classes == ('all', 'a/b') and config.axes.share == ('0.05', '1')
    config.axes.curriculum = ('moco_rot_moco', 'twice', 'scratch')
    config.axes.region, config.axes.share = ('background',), ('1', 0.25)
    config.axes.classes = (('b', 'c'), 'all')
    levels = {axis.name: axis.levels for axis in axes_of(config)}
    assert list(levels['region']) == ['background'] and list(levels['share']) == ['1', '0.25']
    assert levels == {
        'curriculum': {
            'moco_rot_moco': {'curriculum': ('moco', 'rot', 'moco2')},
            'twice': {'curriculum': ('moco', 'moco2')},
            'scratch': {'curriculum': ()},
        },
        'region': {'background': {'data.region': 'background'}},
        'classes': {'b/c': {'data.classes': ('b', 'c')}, 'all': {'data.classes': ()}},
        'share': {'1': {'data.label_fraction': 1.0}, '0.25': {'data.label_fraction': 0.25}},
    }


def test_imagenet_is_left_out_without_weights(make):
    config = make(curriculum=('scratch', 'imagenet'))
    assert list(axes_of(config)[0].levels) == ['scratch']
    config.imagenet_weights = 'file'
    fields = {'curriculum': (), 'encoder.weights': 'file'}
    assert axes_of(config)[0].levels['imagenet'] == fields


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'axes.curriculum': ('rot_nothing',)}, "'rot_nothing' in --config.axes.curriculum"),
        ({'axes.curriculum': ()}, 'study is empty: list something in --config.axes.curriculum'),
        ({'seeds': ()}, 'study is empty: list something in --config.seeds'),
        ({'axes.mixed': ('unknown',)}, "'unknown' in --config.axes.mixed is not defined"),
        (
            {'layout.rows': 'regions'},
            'layout.rows=regions is no axis of the study; it has mixed, curr',
        ),
        ({'layout.columns': 'curriculum'}, 'are both curriculum'),
    ],
)
def test_what_is_not_understood(changes, words, make):
    mixed = (('a', (('data.region', 'full'),)), ('b', (('seed', 1),)))
    config = make(changes, curriculum=('scratch', 'moco'), mixed=mixed)
    with pytest.raises(UserError, match=words):
        layout_of(config, axes_of(config))


def test_the_layout_orders_the_axes(make):
    config = make(curriculum=('moco',), region=study.over('data.region', ('full',)),
                  share=study.over('data.label_fraction', (1.0,)))  # fmt: skip
    axes = axes_of(config)
    assert layout_of(config, axes) == Layout('curriculum', 'region')
    assert [axis.name for axis in axes] == ['curriculum', 'region', 'share']
    config.layout.rows, config.layout.columns = 'share', ''
    axes = axes_of(config)
    assert layout_of(config, axes) == Layout('share', '')
    assert [axis.name for axis in axes] == ['share', 'curriculum', 'region']


def test_a_cells_config_has_its_fields_and_its_stages(run_of_all):
    fields = {'curriculum': ('moco', 'moco2'), 'stage.moco2.epochs': 7, 'stage.rot.epochs': 9,
              'data.label_fraction': 1}  # fmt: skip
    cell = grid.Cell({'curriculum': 'x'}, 5, fields)
    before = run_of_all.to_dict()
    found = run_config(run_of_all, cell, ('moco', 'moco2'))
    assert list(found.stage) == ['classify', 'moco', 'moco2'] and found.seed == 5
    assert (found.stage.moco.epochs, found.stage.moco2.epochs) == (2, 7)
    assert found.stage.moco2.optimizer.lr == 0.1 and found.data.label_fraction == 1.0
    assert found.curriculum == ('moco', 'moco2') and run_of_all.to_dict() == before
    alone = run_config(run_of_all, grid.Cell({}, 0, {'curriculum': ()}))
    assert list(alone.stage) == ['classify']


@pytest.mark.parametrize(
    ('field', 'value'),
    [('data.regoin', 'full'), ('data.region', 3), ('stage.swav.epochs', 3), ('seed.x', 1)],
)
def test_a_field_that_is_not_there_or_of_another_kind(field, value, run_of_all):
    cell = grid.Cell({'curriculum': 'rot', 'a': 'b'}, 0, {field: value})
    with pytest.raises(UserError, match=f'rot, a b, seed 0: the field {field} of config.run'):
        run_config(run_of_all, cell)


def test_file_names_are_safe_and_tell_levels_apart():
    names = ['full', 'moco_swav', '0.05', 'a/b', 'a-b', 'A-b', '..', '.', '', 'a b', 'a' * 300,
             'a' * 300 + 'b', 'ä', 'ö', 'x\n', '$(rm)', '-x', 'a=b']  # fmt: skip
    found = [file_name(name) for name in names]
    assert len({name.lower() for name in found}) == len(names)
    assert found[:3] == names[:3] and all(len(name) < 70 for name in found)
    safe = set('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-')
    assert all(set(name) <= safe and name not in ('.', '..') for name in found)
