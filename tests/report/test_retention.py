"""What stages forget, and what is distilled, as pages and the console show it."""

import math

import pytest

from cxr_jax.report import format_table
from cxr_jax.report.cautions import cautions
from cxr_jax.report.markdown import to_markdown
from cxr_jax.report.page import run_page
from tests.report.made_up import made_up_run, stage


def figure(value, low, high):
    return {'value': value, 'low': low, 'high': high, 'reason': ''}


def row(name, cells, **changes):
    return {
        'stage': name, 'measure': 'accuracy', 'unit': 'percent', 'chance': 0.25, 'images': 96,
        'higher_is_better': True, 'over': 'draws',
        'cells': [{'figure': figure(*values), 'change': figure(*change)}
                  for values, change in cells],
    } | changes  # fmt: skip


NONE = (0.0, 0.0, 0.0)
RETENTION = {
    'fold': None, 'images': 96, 'confidence': 0.95, 'draws': 3,
    'stages': ['rot', 'genesis', 'classify'],
    'rows': [
        row('rot', [((0.8, 0.78, 0.82), NONE), ((0.5, 0.4, 0.6), (-0.3, -0.4, -0.2)),
                    ((0.26, 0.2, 0.3), (-0.54, -0.6, -0.5))]),
        row('genesis', [((0.1234, 0.11, 0.13), NONE), ((0.2, 0.1, 0.3), (0.0766, -0.01, 0.1))],
            measure='loss', unit='decimal', chance=None, higher_is_better=False),
    ],
    'probe': {
        'title': 'balanced accuracy', 'meaning': 'm', 'unit': 'percent', 'chance': 1 / 3,
        'higher_is_better': True, 'images': 90, 'fitted': 500,
        'figures': [figure(0.3 + 0.1 * n, 0.2, 0.7) for n in range(4)],
    },
}  # fmt: skip


@pytest.fixture
def results():
    return made_up_run()['results'] | {'retention': RETENTION}


def rows_of(page, first):
    lines = [line for line in page.splitlines() if line.startswith(f'| {first} |')]
    return [line.strip('| ').split(' | ') for line in lines]


def test_cells_lie_below_the_stage_after_which_they_were_measured(results):
    page = to_markdown('run', run_page(results, ()))
    header, rot, genesis = (rows_of(page, name)[-1] for name in ('stage', 'rot', 'genesis'))
    assert header[3:] == ['after rot', 'after genesis', 'after classify']
    assert rot == [
        'rot', 'accuracy', '25.0 %', '80.0 % (78.0 to 82.0 %)', '50.0 %, -30.0 (-40.0 to -20.0)',
        '26.0 %, -54.0 (-60.0 to -50.0)',
    ]  # fmt: skip
    assert genesis == [
        'genesis', 'loss', '-', '-', '0.123 (0.110 to 0.130)', '0.200, +0.077 (-0.010 to +0.100)'
    ]  # fmt: skip
    assert 'on the 96 validation images,' in page and 'of fold' not in page
    assert '- rot, genesis: from the lowest to the highest of 3 draws of views' in page
    assert rows_of(page, 'before any') == [['before any', '30.0 %', '20.0 to 70.0 %', '33.3 %']]
    assert len(rows_of(page, 'after classify')) == 1


def test_the_console_shows_the_values(results):
    lines = format_table(results).splitlines()
    assert max(map(len, lines)) < 100
    [rot] = [line.split() for line in lines if line.startswith('rot ') and 'accuracy' in line]
    assert rot[-6:] == ['80.0', '%', '50.0', '%', '26.0', '%']


def test_runs_in_which_it_was_not_measured_have_no_section(results):
    page = to_markdown('run', run_page(results | {'retention': None}, ()))
    assert 'forget' not in page and 'before any' not in page
    without = results | {'retention': RETENTION | {'probe': None, 'fold': 1}}
    page = to_markdown('run', run_page(without, ()))
    assert 'validation images of fold 2' in page and 'before any' not in page


def test_what_is_distilled_stands_apart_from_the_loss_that_chance_is_told_for(results):
    """A loss below chance is no doubt, whatever is added to it."""
    metrics = {'loss': 2.0, 'task_loss': 1.1, 'distil_loss': 0.9, 'chance_loss': math.log(4)}
    results['stages'] = [stage('rot'), stage('classify', metrics=metrics)]
    page = to_markdown('run', run_page(results, ()))
    header, first, second = (
        _starting(page, name) for name in ('stage | epochs', '1 rot', '2 classify')
    )
    at = header.index('distillation')
    assert (first[at], second[at], second[header.index('final loss')]) == ('-', '0.900', '1.100')
    assert not any('ended at a loss' in text for text in cautions(results))
    metrics['task_loss'] = 1.5
    assert any('ended at a loss of 1.500' in text for text in cautions(results))


def _starting(page, first):
    [line] = [line for line in page.splitlines() if line.startswith(f'| {first}')]
    return line.strip('| ').split(' | ')
