"""The report of a run: its files, its numbers, its sentences."""

import copy
import json

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cxr_jax.evaluation.alarms import MEANINGS
from cxr_jax.report import format_table, write_report
from cxr_jax.report.attention import attention_sentence
from cxr_jax.report.cautions import cautions
from cxr_jax.report.formats import (
    decimal,
    disk,
    duration,
    interval,
    number,
    percent,
    plain,
)
from cxr_jax.report.markdown import to_markdown
from cxr_jax.report.page import PICTURES, run_page, run_title
from cxr_jax.store.files import write_atomically
from tests.report.made_up import CLASSES, FINDINGS, figures_of, made_up_run, made_up_table, stage

FILES = {
    'results.json', 'results.md', 'confusion.png', 'roc.png', 'gallery.png', 'curves.png',
    'health.png', 'pretext.png',
}  # fmt: skip


@pytest.fixture
def run():
    return made_up_run()


@pytest.fixture
def findings():
    return made_up_run(exclusive=False)


def page_of(directory):
    return (directory / 'results.md').read_text(encoding='utf-8')


def page_without_files(results):
    return to_markdown(run_title(results), run_page(results, PICTURES))


def cells(page, first):
    """The rows of all tables that start with this cell."""
    lines = [line for line in page.splitlines() if line.startswith(f'| {first} |')]
    return [line.strip('| ').split(' | ') for line in lines]


def test_all_files_are_written_and_nothing_else(tmp_path, run):
    directory = tmp_path / 'new' / 'report'
    paths = write_report(directory, **run)
    assert {path.name for path in paths} == {path.name for path in directory.iterdir()} == FILES
    for name in FILES - {'results.json', 'results.md'}:
        with Image.open(directory / name) as picture:
            assert picture.format == 'PNG' and np.asarray(picture).std() > 5


def test_json_round_trip(tmp_path, run):
    run['results']['stages'][0]['metrics']['loss'] = float('nan')
    write_report(tmp_path, run['results'])
    read = json.loads((tmp_path / 'results.json').read_text(encoding='utf-8'))
    assert read['stages'][0]['metrics']['loss'] is None
    read['stages'][0]['metrics']['loss'] = expected = 0.987
    original = copy.deepcopy(run['results'])
    original['stages'][0]['metrics']['loss'] = expected
    original['data']['name_counts']['test'] = original['data']['name_counts']['test'].tolist()
    assert read == original


@pytest.mark.parametrize('exclusive', [True, False])
def test_page_holds_the_numbers_of_the_json(tmp_path, exclusive):
    run = made_up_run(exclusive)
    write_report(tmp_path, **run)
    page = page_of(tmp_path)
    read = json.loads((tmp_path / 'results.json').read_text(encoding='utf-8'))
    test, attention = read['test'], read['attention']
    for found in test['figures'].values():
        unit, figure = found['unit'], found['figure']
        chance = '-' if found['chance'] is None else number(found['chance'], unit)
        assert [
            found['title'], number(figure['value'], unit), interval(figure, unit), chance
        ] in cells(page, found['title'])  # fmt: skip
    for row in test['per_name']:
        counts = [row['images'], row['patients']] if exclusive else [
            row['images'], row['known'], row['patients']
        ]  # fmt: skip
        expected = [row['name'], *map(str, counts)]
        for name, figure in row['figures'].items():
            unit = test['name_measures'][name]['unit']
            expected += [number(figure['value'], unit), interval(figure, unit)]
            if name == 'average_precision':  # whose chance is the prevalence
                assert row['chance'][name] == row['images'] / row['known']
                expected.append(decimal(row['chance'][name]))
        assert expected in cells(page, row['name'])
    for row in attention['per_name']:
        assert f'| {percent(row["ail"]["value"])} | {interval(row["ail"])} |' in page
    head = test['figures'][test['headline']]
    assert f'chance is {number(head["chance"], head["unit"])}.' in page
    assert f'the {head["title"]} is **{number(head["figure"]["value"], head["unit"])}**' in page
    for row in test['calibration']['reliability']:
        assert [
            percent(row['predicted']), percent(row['observed']), str(row['entries'])
        ] in cells(page, percent(row['predicted']))  # fmt: skip
    for found in (*test['figures'].values(), *test['name_measures'].values()):
        assert found['meaning'] in page
    for text in ('not a clinical result', read['command'], *read['params_sha256'], '5,093',
                 *read['bundles'], '0.058', '0.987', '1.386', 'resumed 2 times', '2 min 03 s',
                 'rate 0.058 of 6', '352 MiB'):  # fmt: skip
        assert text in page
    for name in FILES - {'results.json', 'results.md', 'confusion.png'}:
        assert f']({name})' in page
    console = format_table(read)
    assert f'{number(head["figure"]["value"], head["unit"])}' in console
    assert '352 MiB' in console


def test_confusion_belongs_to_exclusive_classes(tmp_path, run, findings):
    page = page_without_files(run['results'])
    for name, counts in zip(CLASSES, run['results']['test']['confusion'], strict=True):
        assert [name, *map(str, counts)] in cells(page, name)
    (tmp_path / 'confusion.png').write_bytes(b'of another run')
    write_report(tmp_path, findings['results'])
    page = page_of(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'results.json', 'results.md'}
    assert 'onfusion' not in page and 'class of' not in page and 'By class' not in page
    assert '**By finding**' in page and 'is known to be there or not' in page


def test_page_embeds_only_pictures_that_exist_and_old_ones_go(tmp_path, run):
    write_report(tmp_path, **run)
    write_report(tmp_path, run['results'])
    page = page_of(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {'results.json', 'results.md', 'confusion.png'}
    assert 'gallery.png' not in page and 'confusion.png' in page


def test_equal_results_give_equal_bytes(tmp_path, run):
    write_report(tmp_path / 'a', **run)
    write_report(tmp_path / 'b', **run)
    for name in FILES:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_a_run_without_readout_says_what_it_leaves(tmp_path, run):
    results = run['results']
    results |= {'test': None, 'attention': None, 'boxes': None, 'curriculum': ['rot']}
    results |= {'stages': results['stages'][:1], 'bundles': ['runs/stages/rot-0123']}
    write_report(tmp_path, results, curves=run['curves'][:1])
    assert {p.name for p in tmp_path.iterdir()} == {'results.json', 'results.md', 'curves.png'}
    page = page_of(tmp_path)
    for text in (page, ' '.join(format_table(results).split())):
        assert 'ends without a readout' in text and 'runs/stages/rot-0123' in text
        assert 'stage, rot, as a bundle' in text
    for text in ('Result on the test images', 'chance is', 'How to read', 'AIL'):
        assert text not in page
    assert 'test images' not in format_table(results)


def test_folds_are_told_and_have_a_column(run):
    results = run['results']
    results['folds'] = 2
    results['stages'] = [
        stage('rot'), stage('classify', fold=0), stage('classify', fold=1, steps=77),
    ]  # fmt: skip
    results['stages'][2]['metrics'] = {'loss': 1.5, 'chance_loss': 1.4}
    page = page_without_files(results)
    assert 'all 2 folds together: every image was tested once, by the network that has not ' \
        'seen its patient.' in page  # fmt: skip
    assert [row[1:4] for row in cells(page, '1 rot `rot-01234567`')] == [['all', '30', '1,234']]
    rows = cells(page, '2 classify `classify-012`')
    assert [row[1:4] for row in rows] == [['1', '30', '1,234'], ['2', '30', '77']]
    assert [row[1] for row in cells(page, 'classify')] == ['1', '2']  # of the data
    assert 'Stage classify of fold 2 ended at a loss of 1.500' in page
    console = format_table(results)
    assert 'stage     fold  epochs' in console and '2 folds' in console
    results['data']['has_patient_ids'] = False
    assert 'by the network that has not seen it.' in page_without_files(results)


def test_what_was_left_out_is_printed_and_reported(run):
    results = run['results']
    assert 'left out' not in page_without_files(results) + format_table(results)
    results['stages'][0]['data'] = {
        'sets': [{'name': 'nih14', 'images': 1000}, {'name': 'mi|ne', 'images': 50}],
        'images': 1050, 'patients': 903, 'balance': 'source',
        'left_out': {'images': 1234, 'same_patient': 1211, 'same_content': 23},
    }  # fmt: skip
    page, console = page_without_files(results), format_table(results)
    assert r'| rot | nih14, mi\|ne | 1,050 | 903 | 1,234 | 1,211 | 23 | by source |' in page
    assert ['classify', 'phantoms', '5,093', '2,501', '-', '-', '-', 'uniformly'] in cells(
        page, 'classify'
    )
    assert 'nih14, mi|ne   1,050       903     1,234         1,211            23' in console
    for text in (page, console.replace('\n', ' ')):
        assert 'is in the validation or test data' in text


def test_absent_class_is_told_everywhere(tmp_path, run):
    table = made_up_table()
    table['labels'] = table['labels'] % 2
    nothing = np.full(len(table['labels']), np.nan)
    table |= {'ail': nothing, 'lung_area': nothing}
    run['results'] |= figures_of(table, CLASSES)
    run['gallery'] |= {'labels': table['labels'], 'masks': None, 'ail': nothing}
    run['predictions'] = table
    write_report(tmp_path, **run)
    page = page_of(tmp_path)
    assert 'mean over 2 of 3 classes: no test image of class atypical' in page
    assert cells(page, 'atypical')[0] == ['atypical', '0', '0', *['n/a'] * 6]
    assert 'AIL is not available' in page
    assert '30 test images have no lung mask' in page
    console = format_table(run['results'])
    assert 'No test image of class atypical' in console
    assert 'nan' not in (page + console).lower() and 'None' not in page + console


def test_boxes_are_told_where_there_are_some(run):
    results, boxes = run['results'], run['results']['boxes']
    page, console = page_without_files(results), format_table(results)
    for text in (page, console):
        assert percent(boxes['box_attention']['value']) in text
        assert interval(boxes['box_attention']) in text
    assert f'In the {boxes["images"]} test images with boxes' in page
    for missing in (boxes | {'images': 0}, None):
        results['boxes'] = missing
        assert 'boxes' not in page_without_files(results) + format_table(results)


def test_names_of_the_data_cannot_break_the_page(tmp_path, run):
    names = ['a|b', '<b>$x_1$</b>', '*c* `d`']
    results = run['results']
    results |= figures_of(run['predictions'], names)
    results['data'] |= {'names': names, 'name': 'se*t*'}
    results['name'] = '<i>'
    write_report(tmp_path, **run)
    page = page_of(tmp_path)
    assert r'| a\|b |' in page and r'&lt;b>\$x_1\$&lt;/b>' in page
    assert r'\*c\* \`d\`' in page and r'se\*t\*' in page and '<b>' not in page and '<i>' not in page
    for line in page.splitlines():
        if line.startswith('| '):
            assert line.endswith(' |')
    console = format_table(results)
    assert 'a|b' in console and '*c* `d`' in console


def test_results_that_lack_a_key_are_refused_before_anything_is_written(tmp_path, run):
    del run['results']['stages'][1]['wall_seconds']
    with pytest.raises(ValueError, match='a stage to be reported lacks wall_seconds'):
        write_report(tmp_path / 'report', **run)
    assert not (tmp_path / 'report').exists()


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / 'results.json'
    path.write_text('old')

    def broken(temporary):
        temporary.write_text('half')
        assert path.read_text() == 'old' and temporary.parent == tmp_path
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write_atomically(path, broken)
    assert [p.name for p in tmp_path.iterdir()] == ['results.json'] and path.read_text() == 'old'
    with path.open() as reader:  # who reads meanwhile gets the old file whole, not a mixture
        write_atomically(path, lambda temporary: temporary.write_text('new'))
        assert reader.read() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['results.json'] and path.read_text() == 'new'


def test_results_json_comes_last(tmp_path, run, monkeypatch):
    order = []
    for name in ('write_atomically', 'write_text'):
        monkeypatch.setattr(
            f'cxr_jax.report.files.{name}', lambda path, _: order.append(path.name)
        )
    write_report(tmp_path, **run)
    assert set(order) == FILES and order[-1] == 'results.json'


def test_pictures_leave_matplotlibs_settings_alone(tmp_path, run):
    before = dict(matplotlib.rcParams)
    write_report(tmp_path, **run)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize('names', [CLASSES, FINDINGS])
def test_console_table_is_narrow_aligned_ascii(names):
    run = made_up_run(exclusive=names is CLASSES)
    results = run['results']
    names = [f'class of a quite long name {c}' for c in range(3)]
    results |= figures_of(run['predictions'], names, results['data']['exclusive'])
    results['data']['names'] = names
    results['stages'] = [stage(
        'a_task_with_an_endless_name', epochs=1234.567, steps=123_456_789, batch_size=65536,
        learning_rate=1.23456e-5, images_per_second=123456.7, wall_seconds=123 * 3600 + 59 * 60,
        metrics={'loss': 12345.678, 'chance_loss': 12345.678}, fold=2,
        data={'sets': [{'name': f'a set of name {i}', 'images': 1} for i in range(5)],
              'images': 123_456_789, 'patients': 98_765_432, 'balance': 'patient',
              'left_out': {'images': 123_456, 'same_patient': 123_456, 'same_content': 0}},
    )]  # fmt: skip
    results['folds'] = 5
    text = format_table(results)
    assert text.isascii() and max(map(len, text.splitlines())) < 100
    blocks = [block.splitlines() for block in text.split('\n\n')]
    tables = [block for block in blocks if len(block) > 1 and set(block[1]) == {'-'}]
    assert len(tables) >= 3
    for block in tables:
        ends = [i for i, line in enumerate(block) if line.startswith('- ')] or [len(block)]
        assert len({len(line) for line in block[: ends[0]]}) == 1
    head = results['test']['figures'][results['test']['headline']]
    assert number(head['figure']['value'], head['unit']) in text
    assert interval(results['attention']['ail']) in text


def test_cautions_name_every_reason_for_doubt(run):
    results = run['results']
    assert cautions(results) == ['not a clinical result']
    results['data']['has_patient_ids'] = False
    results['region'] = 'lungs_black'
    results['stages'][0]['metrics']['loss'] = 1.5
    results['stages'][1]['metrics']['loss'] = float('inf')
    results['attention'] |= {'without_mask': 3, 'without_activation': 2}
    test = results['test']
    test['figures'][test['headline']]['figure'] |= {'low': 0.3}
    first = next(iter(test['name_measures']))
    test['per_name'][1]['figures'][first] |= {'low': 1.0, 'high': 1.0}
    found = cautions(results)
    for words in ('no patient ids', 'rot ended at a loss of 1.500', 'classify is not finite',
                  'region lungs_black', '3 test images have no lung mask', '2 test images have no',
                  'down to chance (33.3 %)', 'same value: accuracy of typical'):
        assert sum(words in text for text in found) == 1, words


def test_cautions_tell_every_alarm_of_a_stage(run):
    first, second = run['results']['stages']
    first['alarms'] = [
        {'alarm': 'constant', 'from': 60, 'to': 300}, {'alarm': 'shrunk', 'from': 1100, 'to': None}
    ]  # fmt: skip
    second['alarms'] = []
    assert cautions(run['results'])[1:] == [
        'Stage rot, from step 60 of 1,234 to step 300: all images have nearly the same embedding.',
        f'Stage rot, from step 1,100 of 1,234 on: {MEANINGS["shrunk"]}.',
    ]


def test_cautions_of_a_measure_that_is_better_when_low_look_at_its_upper_bound(findings):
    results = findings['results']
    assert cautions(results) == ['not a clinical result']
    test = results['test']
    figure = test['figures'][test['headline']]['figure']
    figure |= {'low': 0.45, 'high': 0.52}
    assert 'reaches down to chance (0.500)' in cautions(results)[1]
    assert 'recognises the findings' in cautions(results)[1]
    test['figures'][test['headline']]['higher_is_better'] = False
    assert 'reaches up to chance (0.500)' in cautions(results)[1]
    figure |= {'high': 0.49}
    assert len(cautions(results)) == 1
    test['figures'][test['headline']]['chance'] = None
    assert len(cautions(results)) == 1
    assert 'chance is' not in format_table(results)


@pytest.mark.parametrize(
    ('low', 'high', 'verdict'),
    [(0.02, 0.08, 'favour the lungs'), (-0.08, -0.02, 'outside the lungs'),
     (-0.01, 0.03, 'not distinguishable')],
)  # fmt: skip
def test_sentence_follows_the_interval_of_the_difference(low, high, verdict):
    figure = {'value': (low + high) / 2, 'low': low, 'high': high, 'reason': ''}
    sentence = attention_sentence({'excess': figure})
    assert verdict in sentence and f'{100 * low:+.1f} to {100 * high:+.1f}' in sentence


def test_a_measure_nobody_knows_is_shown_like_any_other(run):
    """Nothing but what `evaluate` says of a measure is needed to report it."""
    test = run['results']['test']
    figure = {'value': 0.12345, 'low': 0.1, 'high': 0.2, 'reason': 'made up'}
    described = {'title': 'cost', 'meaning': 'what it costs', 'unit': 'decimal',
                 'higher_is_better': False}  # fmt: skip
    test |= {
        'headline': 'cost', 'figures': {'cost': described | {'chance': None, 'figure': figure}},
        'name_measures': {'name_cost': described | {'title': 'own cost'}},
    }  # fmt: skip
    for row in test['per_name']:
        row |= {'figures': {'name_cost': figure}, 'chance': {'name_cost': None}}
    page = page_without_files(run['results'])
    assert 'patients the cost is **0.123** (95 % interval 0.100 to 0.200).' in page
    assert '| cost | 0.123 | 0.100 to 0.200 | - |' in page and '- cost: made up.' in page
    assert '| class | images | patients | own cost | 95 % interval |' in page
    assert '*cost*: what it costs.' in page and 'accuracy' not in page.split('## Training')[0]
    assert 'own cost' in format_table(run['results'])


def test_numbers_in_words():
    assert [duration(x) for x in (12.34, 59.96, 185, 3599.6, 7620, None)] == [
        '12.3 s', '1 min 00 s', '3 min 05 s', '1 h 00 min', '2 h 07 min', 'n/a'
    ]  # fmt: skip
    assert [plain(x) for x in (1241, 12345.6, 0.0580001, 1.5, 3e-5, float('nan'))] == [
        '1,241', '12,350', '0.058', '1.5', '3e-05', 'n/a'
    ]  # fmt: skip
    assert percent(0.83214) == '83.2 %'
    assert [decimal(x) for x in (0.9, 1234.5, None)] == ['0.900', '1,234', 'n/a']
    assert [disk(x) for x in (0, 512, 2048, 352 * 2**20, 1.4 * 2**30, 5000 * 2**30, None)] == [
        '0 bytes', '512 bytes', '2 KiB', '352 MiB', '1.4 GiB', '5,000.0 GiB', 'n/a'
    ]  # fmt: skip
    assert number(None, 'percent') == 'n/a'


