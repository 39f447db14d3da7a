"""The study's page, tables, pictures and console tables against the numbers they show."""

import copy
import json
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cxr_jax.report import files
from cxr_jax.report.figures.study_plots import Bars, bars_picture, log_spaced, search_picture
from cxr_jax.report.formats import (
    decimal,
    difference,
    difference_interval,
    interval,
    number,
    p_value,
    percent,
)
from cxr_jax.report.markdown import to_markdown
from cxr_jax.report.measures import Measure
from cxr_jax.report.study_console import format_study
from cxr_jax.report.study_grid import measure, pages_of
from cxr_jax.report.study_page import study_page
from cxr_jax.report.study_searches import Search, searches_of
from cxr_jax.report.study_text import study_cautions
from cxr_jax.report.study_writer import write_study
from tests.made_up_study import made_up_study, search

CURRICULA = ['scratch', 'imagenet', ['rot'], ['moco'], ['rot', 'moco'], ['rot', 'moco', 'swav']]


@pytest.fixture(scope='module')
def whole():
    return made_up_study(CURRICULA)


@pytest.fixture(scope='module')
def whole_findings():
    return made_up_study(CURRICULA[:3], seeds=[0], exclusive=False)


@pytest.fixture
def study(whole):
    return copy.deepcopy(whole)


@pytest.fixture
def findings(whole_findings):
    return copy.deepcopy(whole_findings)


@pytest.fixture(scope='module')
def one_page():
    return made_up_study(
        CURRICULA, ['full'], [3], {'4 classes': ['negative', 'typical', 'unclear', 'atypical']}
    )


@pytest.fixture
def small(one_page):
    """One seed, region and class set; two searches."""
    found = copy.deepcopy(one_page)
    for cell in found['cells']:
        kept = cell['title'] in ('imagenet', 'rot')
        for stage in cell['stages'][kept:]:
            stage['search'] = None
    return found


def page_of(study, *more):
    return to_markdown(study['name'], study_page(study, *more))


def cells(page, first):
    """The rows of all tables that start with this cell."""
    lines = [line for line in page.splitlines() if line.startswith(f'| {first} |')]
    return [line.strip('| ').split(' | ') for line in lines]


def place_of(study, target):
    return next(p for p in pages_of(study) if p.levels['classes'] == target)


def test_files_are_written_whole_with_study_json_last(tmp_path, small, monkeypatch):
    order = []
    for name in ('write_atomically', 'write_text'):
        real = getattr(files, name)

        def noted(path, content, real=real):
            order.append(path.name)
            real(path, content)

        monkeypatch.setattr(files, name, noted)
    (tmp_path / 'plots').mkdir()
    (tmp_path / 'plots' / 'search-of-old.png').write_bytes(b'')
    paths = write_study(tmp_path, small)
    assert order == [path.name for path in paths] and order[-2:] == ['study.md', 'study.json']
    pictures = {path.name for path in (tmp_path / 'plots').iterdir()}
    assert pictures == {
        'headline-4-classes.png', 'attention-4-classes.png', 'boxes-4-classes.png',
        'search-full-4-classes-classify-seed3.png', 'search-full-4-classes-rot-seed3.png',
    }  # fmt: skip
    page = (tmp_path / 'study.md').read_text(encoding='utf-8')
    for name in pictures:
        assert f'](plots/{name})' in page
        with Image.open(tmp_path / 'plots' / name) as picture:
            assert picture.format == 'PNG' and np.asarray(picture).std() > 5
    read = json.loads((tmp_path / 'study.json').read_text(encoding='utf-8'))
    assert read == json.loads(json.dumps(small))
    before = {path: path.read_bytes() for path in paths}
    write_study(tmp_path, small)
    assert {path: path.read_bytes() for path in paths} == before


def test_missing_keys_are_refused_before_anything_is_written(tmp_path, small):
    del small['cells'][2]['stages'], small['means'][0]['figures'], small['layout']
    with pytest.raises(ValueError, match='a study to be reported lacks layout'):
        write_study(tmp_path / 'study', small)
    small['layout'] = {'rows': 'curriculum'}
    with pytest.raises(ValueError, match='a cell to be reported lacks stages'):
        write_study(tmp_path / 'study', small)
    small['cells'][2]['stages'] = []
    with pytest.raises(ValueError, match='a mean to be reported lacks figures'):
        write_study(tmp_path / 'study', small)
    assert not (tmp_path / 'study').exists()


def test_page_holds_every_mean_with_its_interval_spread_and_label(study):
    text, name = page_of(study), study['headline']
    for page in pages_of(study):
        for row in page.rows:
            shown = cells(text, row.title)
            for column, mean in row.means.items():
                figure = mean['figures'][name]
                assert [
                    row.title, row.kind, mean['label'] or '-', percent(figure['value']),
                    interval(figure), f'{100 * figure["sd"]:.1f}', '2',
                ] in shown  # fmt: skip
                by_class = [each['figures']['class_accuracy'] for each in mean['per_name']]
                assert [
                    row.title, *(f'{percent(f["value"])} ({interval(f)})' for f in by_class)
                ] in shown
                for part, share, area in (
                    ('attention', 'ail', 'lung_area'), ('boxes', 'box_attention', 'box_area')
                ):  # fmt: skip
                    inside = mean[part]
                    assert [
                        row.title, str(inside['images']), percent(inside[share]['value']),
                        interval(inside[share]), percent(inside[area]['value']),
                        difference(inside['excess']['value']),
                        difference_interval(inside['excess']),
                    ] in shown  # fmt: skip
                assert mean['levels']['region'] == column
            values = [row.means[c]['figures'][name]['value'] for c in page.columns]
            assert [row.title, *map(percent, values)] in shown
    assert 'rot → moco → swav' in text and 'chance is 25.0 %' in text and 'chance is 50.0 %' in text
    assert '## Accuracy by class' in text and '### Classes: negative/typical' in text
    assert '**lungs_black** (lungs only, the rest black).' in text
    assert 'nan' not in text.lower() and 'None' not in text


def test_page_of_findings(findings):
    text = page_of(findings)
    unit = findings['measures'][findings['headline']]['unit']
    assert unit == 'decimal'
    for mean in findings['means']:
        figure = mean['figures'][findings['headline']]
        assert [
            mean['title'], mean['kind'], decimal(figure['value']), interval(figure, unit), '-', '1'
        ] in cells(text, mean['title'])
        auc = [each['figures']['auc'] for each in mean['per_name']]
        assert [
            mean['title'], *(f'{decimal(f["value"])} ({interval(f, unit)})' for f in auc)
        ] in cells(text, mean['title'])
    for row in findings['comparisons']['comparisons']:
        assert difference(row['difference']['value'], unit) in text
    assert 'chance is 0.500' in text and '## AUC by finding' in text
    assert 'by class' not in text and 'difference (points)' not in text
    assert '| SD of seeds | seeds |' in text


def test_rows_and_columns_are_the_axes_of_the_layout(study):
    """Nothing but the layout says what stands where."""
    for rows, columns in (('region', 'classes'), ('classes', ''), ('curriculum', 'classes')):
        study['layout'] = {'rows': rows, 'columns': columns}
        for each in (*study['cells'], *study['means']):
            each |= {'title': each['levels'][rows], 'kind': ''}
        pages = list(pages_of(study))
        others = [axis for axis in study['axes'] if axis not in (rows, columns)]
        assert len(pages) == math.prod(len(study['axes'][axis]) for axis in others)
        seen = 0
        for page in pages:
            assert list(page.columns) == study['axes'].get(columns, [''])
            for row in page.rows:
                for column, mean in row.means.items():
                    place = {rows: row.level, **({columns: column} if columns else {})}
                    assert mean['levels'] == page.levels | place
                    seen += 1
        assert seen == len(study['means'])
        text = page_of(study)
        for mean in study['means']:
            value = percent(mean['figures'][study['headline']]['value'])
            assert any(value in row for row in cells(text, mean['title']))
        assert '| kind |' not in text
        assert f'### {others[0].capitalize()}: ' in text
        assert format_study(study).isascii()


def test_each_column_has_the_chance_level_and_the_names_of_its_own_target(study):
    study['layout'] = {'rows': 'curriculum', 'columns': 'classes'}
    text, console = page_of(study), format_study(study)
    lines = [line.split() for line in console.splitlines() if line.startswith('chance')]
    assert lines == [['chance', '25.0', '%', '50.0', '%']] * 2
    assert 'patients; chance is' not in text and '80 test images of 40 patients.' in text
    headers = {line for line in text.splitlines() if line.startswith('| curriculum | negative (')}
    assert [line.count('95 %') for line in sorted(headers, key=len)] == [2, 4]
    page = next(pages_of(study))
    assert measure(study, study['headline'], page.tests('4 classes')).chance == 0.25
    assert measure(study, study['headline'], page.tests()).chance is None


def test_rows_of_one_kind_stand_together_in_the_order_of_the_axis(study):
    levels = ['rot_moco', 'rot', 'imagenet', 'moco', 'scratch', 'rot_moco_swav']
    study['axes']['curriculum'] = levels
    titles = [row.title for row in place_of(study, '4 classes').rows]
    assert titles == ['rot → moco', 'rot', 'moco', 'imagenet', 'scratch', 'rot → moco → swav']


def test_combinations_that_were_not_run_have_no_page(study):
    study['cells'] = [c for c in study['cells'] if c['levels']['classes'] == '4 classes'
                      or c['levels']['region'] == 'full']  # fmt: skip
    assert [page.columns for page in pages_of(study)] == [('full', 'lungs_black'), ('full',)]


def test_page_holds_every_comparison_and_their_number(study):
    text = page_of(study)
    rows = study['comparisons']['comparisons']
    assert len(rows) == 2 * (5 + 4 + 3) * 2  # against scratch, imagenet, best single
    assert text.count("Holm's correction over 24 comparisons.") == 2
    titles = {'rot_moco': 'rot → moco', 'rot_moco_swav': 'rot → moco → swav'}
    for row in rows:
        second = row['second']
        if row['role'] == 'best single task':
            second += ' (best single task)'
        expected = [
            titles.get(row['first'], row['first']), second, row['levels']['classes'],
            difference(row['difference']['value']), difference_interval(row['difference']),
            p_value(row['p']), p_value(row['p_holm']), '2',
        ]  # fmt: skip
        assert expected in cells(text, expected[0])
    assert r'|d\* - d| >= |d|' in text and 'resamples of patients.' in text
    study['comparisons'] = None
    assert 'nothing to compare' in page_of(study)


def test_comparisons_of_another_axis(study):
    found = study['comparisons']
    found |= {'axis': 'region', 'over': 'patients and seeds', 'families': [
        {'levels': {}, 'comparisons': 2}
    ]}  # fmt: skip
    found['comparisons'] = [
        found['comparisons'][0] | {
            'levels': {'curriculum': 'rot_moco', 'classes': target}, 'first': 'lungs_black',
            'second': 'full', 'role': '',
        }
        for target in study['axes']['classes']
    ]  # fmt: skip
    text = page_of(study)
    assert "\nHolm's correction over 2 comparisons." in text
    assert '| region | against | curriculum | classes |' in text
    shown = [row[:4] for row in cells(text, 'lungs_black')]
    assert ['lungs_black', 'full', 'rot_moco', '4 classes'] in shown
    assert 'the SD of seeds tells' not in text
    found['comparisons'][0]['p_holm'] = 0.001
    assert '1 of 2 paired' in format_study(study)


def test_plan_and_links(study):
    text = page_of(study, (), ['full/4 classes/rot/seed1'])
    plan = study['plan']
    for told, key in (('distinct stages', 'distinct'), ('trainings saved by sharing', 'shared'),
                      ('trained by this study', 'trained'),
                      ('runs (curriculum × region × classes × seed)', 'runs')):  # fmt: skip
        assert [told, str(plan[key])] in cells(text, told)
    assert '3.0 GiB' in text and '1 h 23 min' in text
    assert '[gallery](full/4%20classes/rot/seed1/gallery.png)' in text
    assert text.count('/gallery.png)') == 1
    assert text.count('/results.md)') == len(study['cells']) == 48
    study['plan'] = {}
    assert ['distinct stages', '-'] in cells(page_of(study), 'distinct stages')


def test_what_is_missing_is_a_dash_with_its_reason(study):
    gone = {'curriculum': 'rot', 'region': 'full', 'classes': '4 classes'}
    study['means'] = [mean for mean in study['means'] if mean['levels'] != gone]
    for cell in study['cells']:
        if cell['levels'] == gone:
            cell |= {'test': None, 'attention': None, 'boxes': None, 'stages': []}
    for mean in study['means']:
        mean['boxes'] = None
        if mean['levels']['region'] == 'full' and mean['levels']['curriculum'] == 'moco':
            mean['attention'] = None
    text = page_of(study)
    assert ['rot', 'single', '-', '-', '-', '-', '0'] in cells(text, 'rot')
    assert '- rot: no finished run.' in text and '- moco: not measured.' in text
    assert 'Inside the lesion boxes' not in text
    missing = 'runs are missing: rot (full, 4 classes, seed 0)'
    assert any(missing in x for x in study_cautions(study))
    page = place_of(study, '4 classes')
    figures = {(r.level, c): r.figure(c, 'figures', study['headline'])
               for r in page.rows for c in page.columns}  # fmt: skip
    axes = bars_picture(Bars(page, figures, measure(study, study['headline']), 'x')).axes[0]
    assert sum(each.get_text() == 'no value' for each in axes.texts) == 1


def test_a_study_without_any_finished_run_has_a_page(tmp_path, small):
    small |= {'means': [], 'comparisons': None}
    for cell in small['cells']:
        cell |= {'test': None, 'attention': None, 'boxes': None, 'stages': []}
    write_study(tmp_path, small)
    page = (tmp_path / 'study.md').read_text(encoding='utf-8')
    assert 'No stage of this study searched' in page and 'No test image has a lung mask' in page
    assert format_study(small)


def test_a_study_of_runs_without_readout_has_a_page(tmp_path, small):
    small |= {'means': [], 'comparisons': None, 'headline': '', 'measures': {}}
    for cell in small['cells']:
        cell |= {'test': None, 'attention': None, 'boxes': None, 'label': ''}
    write_study(tmp_path, small)
    page = (tmp_path / 'study.md').read_text(encoding='utf-8')
    assert 'No run of this study has ended with a readout' in page and 'Comparisons' not in page
    assert page.count('/results.md)') == len(small['cells'])
    assert not any('missing' in text for text in study_cautions(small))
    assert 'distinct stages' in format_study(small)


def test_folds_are_told(study):
    study['folds'] = 5
    text = page_of(study)
    assert 'cross-validated over 5 folds' in text and 'tested once a seed' in text


def test_a_stage_that_cells_share_is_searched_once(study):
    searches = searches_of(study)
    keys = {stage['key'] for cell in study['cells'] for stage in cell['stages']}
    assert len(searches) == len(keys) == len({s.picture for s in searches}) == 80
    assert {(s.path, s.row) for s in searches if s.levels[0] == 'full'} == {
        (('classify',), 'scratch'), (('classify',), 'imagenet'), (('rot',), ''),
        (('rot', 'classify'), ''), (('moco',), ''), (('moco', 'classify'), ''),
        (('rot', 'moco'), ''), (('rot', 'moco', 'classify'), ''), (('rot', 'moco', 'swav'), ''),
        (('rot', 'moco', 'swav', 'classify'), ''),
    }  # fmt: skip
    assert [s.levels for s in searches] == sorted(
        (s.levels for s in searches), key=lambda x: (x[0] != 'full', x[1] != '4 classes')
    )
    total = sum(s.record['total_epochs'] for s in searches)
    text = page_of(study)
    assert f'80 searches, {total:,} epochs in all' in text
    assert 'classify (scratch, seed 0)' in text and 'rot → moco (seed 1)' in text


def test_searches_of_folds_are_told_apart(small):
    cell = next(c for c in small['cells'] if c['title'] == 'rot')
    first, last = cell['stages']
    cell['stages'] = [first | {'search': None}] + [
        last | {'fold': k, 'key': f'fold {k}', 'search': search('classify', k)} for k in range(2)
    ]
    mine = [s for s in searches_of(small) if s.path == ('rot', 'classify')]
    assert [s.fold for s in mine] == [0, 1] and len({s.picture for s in mine}) == 2
    assert 'rot → classify (seed 3, fold 2)' in page_of(small)


def test_searches_show_what_each_candidate_was_judged_by(small):
    record = search('moco', protocol='halving')
    next(c for c in small['cells'] if c['title'] == 'moco')['stages'][0]['search'] = record
    page = page_of(small)
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
    before = page_of(small)
    chosen['epochs'].append(30)
    chosen['values'].append(0.123)
    assert page_of(small) == before


def test_a_search_by_a_measure_has_its_title_and_unit(findings):
    record = search('findings', metric=findings['headline'])
    findings['cells'][0]['stages'][0]['search'] = record
    one = searches_of(findings)[0]
    shown = findings['measures'][findings['headline']]
    assert (one.metric, one.unit) == (shown['title'], 'decimal')
    text = page_of(findings)
    assert f'Metric: {shown["title"]} (higher is better)' in text
    assert decimal(record['trials'][0]['values'][-1]) in text


@pytest.mark.parametrize(('unit', 'scale'), [('percent', 100), ('decimal', 1)])
def test_lengths_of_the_bars_are_the_values(study, unit, scale):
    page = place_of(study, '4 classes')
    places = [(row, column) for row in page.rows for column in page.columns]
    figures = {(row.level, c): row.figure(c, 'figures', study['headline']) for row, c in places}
    marks = {key: 0.25 + 0.001 * i for i, key in enumerate(figures)}
    shown = Measure('x', unit, True, chance=0.2)
    axes = bars_picture(Bars(page, figures, shown, 'x', marks=marks, mark_label='m')).axes[0]
    bars = axes.patches
    assert [bar.get_width() for bar in bars] == [scale * f['value'] for f in figures.values()]
    assert all(a.get_y() < b.get_y() for a, b in zip(bars, bars[1:], strict=False))
    drawn = [line.get_xdata() for line in axes.lines]
    for key, figure in figures.items():
        assert any(list(x) == [scale * figure['low'], scale * figure['high']] for x in drawn)
        assert any(list(x) == [scale * s for s in figure['per_seed']] for x in drawn)
        assert any(list(x) == [scale * marks[key]] * 2 for x in drawn)
    assert any(list(x) == [0.2 * scale] * 2 for x in drawn)
    assert [label.get_text() for label in axes.get_yticklabels()] == [r.title for r in page.rows]
    for row, tick in zip(page.rows, axes.get_yticks(), strict=True):
        mine = [bar for bar, (r, _) in zip(bars, places, strict=True) if r is row]
        assert np.mean([bar.get_y() + bar.get_height() / 2 for bar in mine]) == pytest.approx(tick)
    without = bars_picture(Bars(page, figures, Measure('x', unit, True), 'x'))
    assert 'chance' not in [text.get_text() for text in without.legends[0].texts]
    assert len(without.axes[0].lines) == len(axes.lines) - len(marks) - 1


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
    figure = search_picture(Search(('rot', 'moco'), ('full',), 0, record, 'loss', 'decimal'))
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
    figure = search_picture(Search(('rot',), ('full', '4 classes'), 0, record, 'accuracy'))
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ['batch 16, after 20 epochs', 'batch 64, after 20 epochs', 'chosen']
    assert '0.058 (batch 64)' in [line.get_label() for line in figure.axes[1].lines]
    assert figure.get_suptitle() == 'rot  (full, 4 classes, seed 0; thesis)'


def test_console_table_is_narrow_aligned_ascii(study):
    more = ['lungs_gray', 'background']
    study['axes']['region'] += more
    for region in more:
        for part in ('cells', 'means'):
            study[part] += [
                each | {'levels': each['levels'] | {'region': region}}
                for each in study[part] if each['levels']['region'] == 'full'
            ]  # fmt: skip
    for cell in study['cells']:
        if cell['levels']['curriculum'] == 'rot_moco_swav':
            cell['title'] = 'a_task_with_a_long_name → another_task → swav'
    text = format_study(study)
    assert text.isascii() and max(map(len, text.splitlines())) < 100
    blocks = [block.splitlines() for block in text.split('\n\n')]
    tables = [block[-9:] for block in blocks if len(block) > 8]
    assert len(tables) == 4  # each page in two parts
    for block in tables:
        assert set(block[1]) == {'-'} and len({len(line) for line in block}) == 1
    row = place_of(study, '4 classes').rows[2]
    for region in ('full', 'lungs_black'):
        figure = row.figure(region, 'figures', study['headline'])
        assert f'{percent(figure["value"])} ({interval(figure)})' in text
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
    words = ('One seed', 'no patient ids', 'resamples are too few', 'runs are missing')
    found = study_cautions(study)
    assert [sum(word in x for x in found) for word in words] == [0, 0, 1, 0]
    study['comparisons']['resamples'] = 10_000
    study['data']['has_patient_ids'] = False
    study['seeds'] = [0]
    found = study_cautions(study)
    assert [sum(word in x for x in found) for word in words] == [1, 1, 0, 0]
    page = page_of(study)
    assert all(f'> - {text}' in page for text in found)
    # A stage at chance level in several runs is told once.
    told = [line for line in page.splitlines() if line.startswith('- Stage moco ended')]
    assert len(told) == 1 and 'and 11 more runs' in told[0]


def test_levels_of_the_data_cannot_break_the_page(study):
    text = json.dumps(study).replace('negative/typical', '<b>a|b*</b>')
    study = json.loads(text)
    page = page_of(study)
    assert r'&lt;b>a\|b\*&lt;/b>' in page and '<b>' not in page
    assert all(line.endswith(' |') for line in page.splitlines() if line.startswith('| '))
    header = next(line for line in page.splitlines() if line.startswith('| run |'))
    width = header.replace(r'\|', '').count('|')
    for cell in study['cells']:
        row = next(x for x in page.splitlines() if x.startswith(f'| {cell["title"]} |')
                   and '[report]' in x)  # fmt: skip
        assert row.replace(r'\|', '').count('|') == width


def test_numbers_in_words():
    assert [difference(x) for x in (0.0123, -0.2, None, math.nan)] == [
        '+1.2', '-20.0', 'n/a', 'n/a'
    ]
    assert [difference(x, 'decimal') for x in (0.0123, -0.2)] == ['+0.012', '-0.200']
    assert [p_value(x) for x in (0.0001, 0.0214, 1.0, None)] == ['< 0.001', '0.021', '1.000', 'n/a']
    assert difference_interval({'low': -0.01, 'high': 0.034}) == '-1.0 to +3.4'
    assert number(0.5, 'decimal') == '0.500'


def test_pictures_leave_matplotlibs_settings_alone(small):
    before = dict(matplotlib.rcParams)
    page = next(pages_of(small))
    figures = {(r.level, 'full'): r.figure('full', 'figures', small['headline'])
               for r in page.rows}  # fmt: skip
    bars_picture(Bars(page, figures, Measure('x', 'percent', True), 'x'))
    search_picture(Search(('rot',), ('full',), 0, search('rot')))
    assert dict(matplotlib.rcParams) == before
