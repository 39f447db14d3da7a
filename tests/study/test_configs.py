"""The studies that come along: what they list, and that every level can be set."""

import math

import pytest

from configs.studies import label_fraction, single_tasks
from configs.study import SIIM_TASKS, curricula, get_config, over
from cxr_jax.study.comparison import check
from cxr_jax.study.grid import axes_of, cells, layout_of, run_config
from cxr_jax.tasks import TASKS
from data_pipelines.errors import UserError

STUDIES = {
    'demo': lambda: get_config('demo'),
    'siim_study': lambda: get_config('siim_study'),
    'orderings': lambda: get_config('orderings,length=2,preset=demo'),
    'single_tasks': lambda: single_tasks.get_config('preset=small,readout=classify'),
    'label_fraction': label_fraction.get_config,
    'findings': lambda: label_fraction.get_config('preset=siim_study,readout=findings'),
}


@pytest.mark.parametrize('name', STUDIES)
def test_every_cell_of_every_study_has_a_config(name):
    config = STUDIES[name]()
    axes = axes_of(config)
    layout_of(config, axes)
    check(config.compare, axes)
    for cell in cells(axes, config.seeds):
        each = run_config(config.run, cell)
        assert {*each.curriculum} == {*each.stage} & {*TASKS}


def test_the_reference_study():
    """4 single tasks, 12 ordered pairs, 6 triples that begin with MoCo; every stage is searched."""
    config = get_config('thesis')
    assert config == get_config('siim_study')
    names = config.axes.curriculum
    assert names[:2] == ('scratch', 'imagenet') and len(set(names)) == len(names) == 24
    lengths = [name.count('_') + 1 for name in names[2:]]
    assert [lengths.count(n) for n in range(1, 5)] == [4, 12, 6, 0]
    assert all(name.startswith('moco_') for name in names if name.count('_') == 2)
    assert config.axes.classes == ('all', 'negative/typical')
    searches = {name: config.run.stage[name].search for name in (*SIIM_TASKS, 'classify')}
    assert all(search.protocol == 'thesis' for search in searches.values())
    assert [search.epochs for search in searches.values()] == [20, 20, 20, 20, 70]


def test_orderings_are_those_of_the_named_tasks():
    names = get_config('orderings,length=2,preset=demo').axes.curriculum
    assert len(set(names)) == len(names) == 1 + 4 + math.perm(4, 2)
    named = get_config('orderings,tasks=rot_moco_swav,length=3,preset=demo').axes.curriculum
    assert len(set(named)) == len(named) == 1 + 3 + 6 + 6 and 'swav_rot_moco' in named
    assert curricula(('a', 'b', 'c'), (2,), first='b') == ('b_a', 'b_c')
    assert curricula(('a', 'b'), (1, 2)) == ('a', 'b', 'a_b', 'b_a')
    findings = get_config('orderings,length=1,preset=demo,readout=findings').run
    assert findings.readout == 'findings' and 'classify' not in findings.stage
    assert over('x.y', (0.5,)) == (('0.5', (('x.y', 0.5),)),)


@pytest.mark.parametrize(
    'wrong',
    [
        'nothing',
        'thesis,length=2',
        'orderings,length=99',
        'orderings,tasks=moco_rot,length=3',
        'orderings,tasks=nothing',
        'demo,tasks=moco',
        'demo,preset=x',
        'demo,x',
        'demo,readout=x',
    ],
)
def test_arguments_that_are_not_understood(wrong):
    with pytest.raises(UserError):
        get_config(wrong)
