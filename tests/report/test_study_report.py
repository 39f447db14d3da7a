"""The study's page, tables, pictures and console table against the numbers they show."""

import copy
import json
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cxr_jax.report.figures.study_plots import bars_picture, log_spaced, search_picture
from cxr_jax.report.formats import decimal, interval, percent
from cxr_jax.report.study_console import format_study
from cxr_jax.report.study_page import render_study, study_cautions
from cxr_jax.report.study_searches import Search, searches_of
from cxr_jax.report.study_tables import p_value, point_interval, points, rows_of
from cxr_jax.report.study_writer import write_study
from tests.made_up_study import made_up_study, search

CURRICULA = ['scratch', 'imagenet', ['rot'], ['moco'], ['rot', 'moco'], ['rot', 'moco', 'swav']]


@pytest.fixture(scope='module')
def whole():
    return made_up_study(CURRICULA)


@pytest.fixture
def study(whole):
    return copy.deepcopy(whole)


@pytest.fixture
def small():
    """One seed, region and class set; two searches."""
    found = made_up_study(
        CURRICULA, ['full'], [3], {'4 classes': ['negative', 'typical', 'unclear', 'atypical']}
    )
    for run in found['curricula']:
        run['searches'] = run['searches'][:1] if run['name'] in ('imagenet', 'rot') else []
    return found


def cells(page, first):
    """The rows of all tables that start with this cell."""
    lines = [line for line in page.splitlines() if line.startswith(f'| {first} |')]
    return [line.strip('| ').split(' | ') for line in lines]


def test_files_are_written_whole_with_study_json_last(tmp_path, small, monkeypatch):
    order = []
    import cxr_jax.report.study_writer as writer

    for name in ('write_atomically', 'write_text'):
        real = getattr(writer, name)

        def noted(path, content, real=real):
            order.append(path.name)
            real(path, content)

        monkeypatch.setattr(writer, name, noted)
    (tmp_path / 'plots').mkdir()
    (tmp_path / 'plots' / 'search-of-old.png').write_bytes(b'')
    paths = write_study(tmp_path, small)
    assert order == [path.name for path in paths] and order[-2:] == ['study.md', 'study.json']
    pictures = {path.name for path in (tmp_path / 'plots').iterdir()}
    assert pictures == {
        'accuracy-4-classes.png', 'attention-4-classes.png', 'boxes-4-classes.png',
        'search-full-4-classes-imagenet-classify-seed3.png',
        'search-full-4-classes-rot-seed3.png',
    }  # fmt: skip
    page = (tmp_path / 'study.md').read_text(encoding='utf-8')
    for name in pictures:
        assert f'](plots/{name})' in page
        with Image.open(tmp_path / 'plots' / name) as picture:
            assert picture.format == 'PNG' and np.asarray(picture).std() > 5
    read = json.loads((tmp_path / 'study.json').read_text(encoding='utf-8'))
    expected = copy.deepcopy(small)
    for run in expected['curricula']:
        run['test'] = json.loads(json.dumps(run['test']))
    assert read['means'] == expected['means'] and read['curricula'] == expected['curricula']
    before = {path: path.read_bytes() for path in paths}
    write_study(tmp_path, small)
    assert {path: path.read_bytes() for path in paths} == before


def test_missing_keys_are_refused_before_anything_is_written(tmp_path, small):
    del small['curricula'][2]['stages'], small['means']
    with pytest.raises(ValueError, match='study to be reported lacks means'):
        write_study(tmp_path / 'study', small)
    small['means'] = []
    with pytest.raises(ValueError, match='run to be reported lacks stages'):
        write_study(tmp_path / 'study', small)
    assert not (tmp_path / 'study').exists()


def test_page_holds_every_mean_with_its_interval_spread_and_label(study):
    page = render_study(study)
    for class_set in ('4 classes', 'negative/typical'):
        for row in rows_of(study, class_set):
            shown = cells(page, row.title)
            for region, mean in row.means.items():
                figure = mean['balanced_accuracy']
                expected = [
                    row.title, row.kind, row.labels[region] or '-', percent(figure['value']),
                    interval(figure), f'{100 * figure["sd"]:.1f}', '2',
                ]  # fmt: skip
                assert expected in shown
                by_class = [
                    f'{percent(f["value"])} ({interval(f)})' for f in mean['class_accuracy']
                ]
                assert [row.title, *by_class] in shown
                for part, share, area in (
                    ('attention', 'ail', 'lung_area'), ('boxes', 'box_attention', 'box_area')
                ):  # fmt: skip
                    inside = mean[part]
                    assert [
                        row.title, str(inside['images']), percent(inside[share]['value']),
                        interval(inside[share]), percent(inside[area]['value']),
                        points(inside['excess']['value']), point_interval(inside['excess']),
                    ] in shown  # fmt: skip
            values = [row.means[r]['balanced_accuracy']['value'] for r in study['regions']]
            assert [row.title, *map(percent, values)] in shown
    assert 'rot → moco → swav' in page and 'chance is 25.0 %' in page and 'chance is 50.0 %' in page
    assert 'nan' not in page.lower() and 'None' not in page


def test_rows_go_from_baselines_to_long_curricula(study):
    study['curricula'].reverse()
    titles = [row.title for row in rows_of(study, '4 classes')]
    assert titles == ['imagenet', 'scratch', 'moco', 'rot', 'rot → moco', 'rot → moco → swav']


def test_page_holds_every_comparison_and_their_number(study):
    page = render_study(study)
    rows = study['comparisons']['comparisons']
    assert len(rows) == 2 * (5 + 4 + 3) * 2  # against scratch, imagenet, best single
    assert page.count("Holm's correction over 24 comparisons.") == 2
    titles = {'rot_moco': 'rot → moco', 'rot_moco_swav': 'rot → moco → swav'}
    for row in rows:
        reference = row['reference']
        if row['role'] == 'best single task':
            reference += ' (best single task)'
        expected = [
            titles.get(row['name'], row['name']), reference, row['class_set'],
            points(row['difference']['value']), point_interval(row['difference']),
            p_value(row['p']), p_value(row['p_holm']), '2',
        ]  # fmt: skip
        assert expected in cells(page, expected[0])
    study['comparisons'] = None
    assert 'nothing to compare' in render_study(study)


def test_plan_and_links(study):
    page = render_study(study, galleries=['full/4 classes/rot/seed1'])
    plan = study['plan']
    for text, key in (('distinct stages', 'distinct'), ('trainings saved by sharing', 'shared'),
                      ('trained by this study', 'trained')):  # fmt: skip
        assert [text, str(plan[key])] in cells(page, text)
    assert '[gallery](full/4%20classes/rot/seed1/gallery.png)' in page
    assert page.count('/gallery.png)') == 1
    assert page.count('/results.md)') == len(study['curricula']) == 48
    study['plan'] = {}
    assert ['distinct stages', '-'] in cells(render_study(study), 'distinct stages')


def test_what_is_missing_is_a_dash_with_its_reason(study):
    gone = ('full', '4 classes', 'rot')
    study['means'] = [m for m in study['means'] if (m['region'], m['class_set'], m['name']) != gone]
    for run in study['curricula']:
        if (run['region'], run['class_set'], run['name']) == gone:
            run |= {'test': None, 'attention': None, 'stages': [], 'searches': []}
    for mean in study['means']:
        mean['boxes'] = None
        if mean['region'] == 'full' and mean['name'] == 'moco':
            mean['attention'] = None
    page = render_study(study)
    assert ['rot', 'single', '-', '-', '-', '-', '0'] in cells(page, 'rot')
    assert '- rot: no finished run.' in page and '- moco: not measured.' in page
    assert 'Inside the lesion boxes' not in page
    assert any('seeds are missing: rot (4 classes, full)' in x for x in study_cautions(study))
    assert '- ' in format_study(study)
    rows = rows_of(study, '4 classes')
    figures = {(r.name, 'full'): r.figure('full', 'balanced_accuracy') for r in rows}
    axes = bars_picture(rows, ['full'], figures, 'x').axes[0]
    assert sum(text.get_text() == 'no value' for text in axes.texts) == 1


def test_a_study_without_any_finished_run_has_a_page(tmp_path, small):
    small |= {'means': [], 'comparisons': None}
    for run in small['curricula']:
        run |= {'test': None, 'attention': None, 'stages': [], 'searches': []}
    write_study(tmp_path, small)
    page = (tmp_path / 'study.md').read_text(encoding='utf-8')
    assert 'No stage of this study searched' in page and 'No test image has a lung mask' in page
    assert format_study(small)


def test_a_stage_that_curricula_share_is_searched_once(study):
    searches = searches_of(study)
    keys = {stage['key'] for run in study['curricula'] for stage in run['stages']}
    assert len(searches) == len(keys) == len({s.picture for s in searches}) == 80
    assert {s.path for s in searches if s.region == 'full'} == {
        ('scratch', 'classify'), ('imagenet', 'classify'), ('rot',), ('rot', 'classify'),
        ('moco',), ('moco', 'classify'), ('rot', 'moco'), ('rot', 'moco', 'classify'),
        ('rot', 'moco', 'swav'), ('rot', 'moco', 'swav', 'classify'),
    }  # fmt: skip
    total = sum(s.record['total_epochs'] for s in searches)
    assert f'80 searches, {total:,} epochs in all' in render_study(study)


def test_searches_show_what_each_candidate_was_judged_by(small):
    record = search('moco', protocol='halving')
    small['curricula'][3]['searches'] = [record]
    page = render_study(small)
    shown = next(row for row in cells(page, 'moco') if row[-1].startswith('[curves]'))
    for cell, trial in zip(shown[1:], record['trials'], strict=False):
        value = trial['values'][-1]
        text = 'diverged' if value is None else decimal(value)
        text = f'**{text}**' if trial['chosen'] else text
        assert cell == f'{text} ({trial["rungs"][-1]})'
    assert shown[-2] == str(record['total_epochs'])
    assert '0.0001 | 0.000316 | 0.001' in page and 'loss (lower is better)' in page
    # The winner's own values after the search do not count.
    chosen = record['trials'][4]
    before = render_study(small)
    chosen['epochs'].append(30)
    chosen['values'].append(0.123)
    assert render_study(small) == before


def test_lengths_of_the_bars_are_the_values(study):
    rows, regions = rows_of(study, '4 classes'), study['regions']
    places = [(row, region) for row in rows for region in regions]
    figures = {(row.name, r): row.figure(r, 'balanced_accuracy') for row, r in places}
    marks = {key: 0.25 + 0.001 * i for i, key in enumerate(figures)}
    axes = bars_picture(
        rows, regions, figures, 'x', marks=marks, mark_label='m', line=0.2, line_label='chance'
    ).axes[0]
    bars = axes.patches
    assert [bar.get_width() for bar in bars] == [100 * f['value'] for f in figures.values()]
    assert all(a.get_y() < b.get_y() for a, b in zip(bars, bars[1:], strict=False))
    drawn = [line.get_xdata() for line in axes.lines]
    for key, figure in figures.items():
        assert any(list(x) == [100 * figure['low'], 100 * figure['high']] for x in drawn)
        assert any(list(x) == [100 * s for s in figure['per_seed']] for x in drawn)
        assert any(list(x) == [100 * marks[key]] * 2 for x in drawn)
    assert any(list(x) == [20, 20] for x in drawn)
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.title for row in rows]
    for row, tick in zip(rows, axes.get_yticks(), strict=True):
        mine = [bar for bar, (r, _) in zip(bars, places, strict=True) if r is row]
        assert np.mean([bar.get_y() + bar.get_height() / 2 for bar in mine]) == pytest.approx(tick)


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        (np.linspace(0.01, 0.25, 6), False), (np.geomspace(1e-4, 1, 9), True),
        ([0.01, 0.02], False), ([0.01, 0.1], True), ([0.1], False), ([0, 0.1, 10], False),
        ([0.003, 0.01, 0.03, 0.1, 0.3], True),
    ],
)  # fmt: skip
def test_log_axis_for_values_that_are_evenly_spaced_in_the_logarithm(values, expected):
    assert log_spaced(values) is expected
    assert log_spaced(np.random.default_rng(0).permutation(values)) is expected


@pytest.mark.parametrize('protocol', ['thesis', 'halving'])
def test_search_picture_draws_every_trial(protocol):
    record = search('moco', protocol=protocol)
    figure = search_picture(Search(('rot', 'moco'), 'full', '4 classes', 0, record))
    left, right = figure.axes
    assert left.get_xscale() == ('log' if protocol == 'halving' else 'linear')
    series = {line.get_label(): line.get_xydata() for line in left.lines}
    for rung in {r for t in record['trials'] for r in t['rungs']}:
        at_rung = [
            (t['lr'], dict(zip(t['epochs'], t['values'], strict=True))[rung])
            for t in record['trials'] if rung in t['rungs']
        ]  # fmt: skip
        expected = np.array([pair for pair in at_rung if pair[1] is not None])
        np.testing.assert_array_equal(series[f'after {rung} epochs'], expected)
    chosen = next(t for t in record['trials'] if t['chosen'])
    assert series['chosen'].tolist() == [[chosen['lr'], chosen['values'][-1]]]
    assert left.get_title(loc='left') == f'diverged: {record["trials"][-1]["lr"]:.3g}'
    curves = [line for line in right.lines if not line.get_label().startswith('_')]
    for line, trial in zip(curves, record['trials'], strict=True):
        known = [v for v in trial['values'] if v is not None]
        assert list(line.get_ydata()) == known
        assert line.get_label().endswith('(chosen)') == trial['chosen']


def test_searches_over_batch_sizes_tell_them_apart():
    record = search('rot')
    for i, trial in enumerate(record['trials']):
        trial['batch_size'] = (16, 64)[i % 2]
    figure = search_picture(Search(('rot',), 'full', '4 classes', 0, record))
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ['batch 16, after 20 epochs', 'batch 64, after 20 epochs', 'chosen']
    assert '0.058 (batch 64)' in [line.get_label() for line in figure.axes[1].lines]


def test_console_table_is_narrow_aligned_ascii(study):
    study['regions'] += ['lungs_gray', 'background']
    for run in study['curricula']:
        if run['name'] == 'rot_moco_swav':
            run['tasks'] = ['a_task_with_a_long_name', 'another_task', 'swav']
    text = format_study(study)
    assert text.isascii() and max(map(len, text.splitlines())) < 100
    blocks = [block.splitlines() for block in text.split('\n\n')]
    tables = [block for block in blocks if len(block) > 1 and set(block[1]) == {'-'}]
    assert len(tables) >= 4
    for block in tables[:4]:
        assert all(len(line) <= len(block[1]) for line in block)
    row = rows_of(study, '4 classes')[2]
    for region in ('full', 'lungs_black'):
        figure = row.figure(region, 'balanced_accuracy')
        assert f'{percent(figure["value"])}  {interval(figure)}' in text.replace('   ', '  ')
    assert f'{study["plan"]["distinct"]} distinct stages' in text


def test_console_names_only_differences_that_holm_leaves(study):
    rows = study['comparisons']['comparisons']
    for row in rows:
        row['p_holm'] = 0.2
    assert f'0 of {len(rows)} paired' in format_study(study)
    rows[3] |= {'p_holm': 0.0004}
    rows[3]['difference']['value'] = 0.0456
    text = format_study(study).replace('\n', ' ')
    assert f'1 of {len(rows)} paired' in text and '< 0.001' in text and '+4.6' in text


def test_cautions_of_the_study(study):
    assert study_cautions(study)[0] == study['banner']
    words = ('One seed', 'no patient ids', 'resamples are too few', 'seeds are missing')
    found = study_cautions(study)
    assert [sum(word in x for x in found) for word in words] == [0, 0, 1, 0]
    study['comparisons']['resamples'] = 10_000
    study['data']['has_patient_ids'] = False
    study['seeds'] = [0]
    found = study_cautions(study)
    assert [sum(word in x for x in found) for word in words] == [1, 1, 0, 0]
    page = render_study(study)
    assert all(f'> - {text}' in page for text in found)
    # A stage at chance level in several runs is told once.
    told = [line for line in page.splitlines() if line.startswith('- Stage moco ended')]
    assert len(told) == 1 and 'and 11 more runs' in told[0]


def test_numbers_in_words():
    assert [points(x) for x in (0.0123, -0.2, None, math.nan)] == ['+1.2', '-20.0', '-', '-']
    assert [p_value(x) for x in (0.0001, 0.0214, 1.0, None)] == ['< 0.001', '0.021', '1.000', '-']
    assert point_interval({'low': -0.01, 'high': 0.034}) == '-1.0 to +3.4'


def test_pictures_leave_matplotlibs_settings_alone(small):
    before = dict(matplotlib.rcParams)
    rows = rows_of(small, '4 classes')
    bars_picture(rows, ['full'], {(r.name, 'full'): r.figure('full', 'balanced_accuracy')
                                  for r in rows}, 'x')  # fmt: skip
    search_picture(Search(('rot',), 'full', '4 classes', 0, search('rot')))
    assert dict(matplotlib.rcParams) == before
