"""The report: its files, its numbers, its pictures and the choice of examples."""

import copy
import json
import math

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from cxr_jax.evaluation import metrics
from cxr_jax.report import choose_examples, format_table, write_report
from cxr_jax.report.figures.gallery import RIGHT, WRONG, gallery_picture
from cxr_jax.report.figures.pictures import confusion_picture, curves_picture, roc_picture, smooth
from cxr_jax.report.findings import attention_finding, cautions
from cxr_jax.report.formats import decimal, duration, interval, percent, plain
from cxr_jax.store.files import write_atomically

CLASSES = ['negative', 'typical', 'atypical']
FILES = {'results.json', 'results.md', 'confusion.png', 'roc.png', 'gallery.png', 'curves.png'}


def stage(task, **changes):
    return {
        'task': task, 'key': f'{task}-0123456789abcdef', 'parent_key': '', 'epochs': 30,
        'steps': 1234, 'batch_size': 32, 'learning_rate': 0.058,
        'metrics': {'loss': 0.987, 'chance_loss': math.log(4)}, 'wall_seconds': 123.4,
        'images_per_second': 231.0, 'resumed': 0, 'reused': False, 'notes': [],
    } | changes  # fmt: skip


@pytest.fixture
def run():
    """Results, logs, and 30 pictures with blobs for maps and rectangles for lungs."""
    rng = np.random.default_rng(0)
    n, size = 30, 24
    labels = rng.integers(0, 3, n)
    scores = rng.dirichlet(np.ones(3), n) + 0.4 * (labels[:, None] == np.arange(3))
    probabilities = scores / scores.sum(1, keepdims=True)
    rows, columns = np.mgrid[:size, :size]
    centres = rng.uniform(4, 20, (n, 2, 1, 1))
    cams = np.exp(-((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2) / 18) - 0.1
    masks = np.zeros((n, size, size), np.uint8)
    masks[:, 5:18, 3:10] = masks[:, 5:18, 14:21] = 1
    ail, area = rng.uniform(0.3, 0.8, n), masks.mean((1, 2))
    patients = [f'p{i // 2}' for i in range(n)]
    results = {
        'name': 'demo', 'banner': 'not a clinical result', 'preset': 'tiny', 'region': 'full',
        'command': 'python -m cxr_jax.main --config=configs/demo.py', 'backbone': 'ResNet-18',
        'params_sha256': 'ab' * 32, 'seed': 7, 'curriculum': ['rot', 'classify'],
        'data': {
            'name': 'phantoms', 'fingerprint': 'cd' * 32, 'size': size, 'classes': CLASSES,
            'has_patient_ids': True, 'counts': {'train': 5093, 'test': n},
            'class_counts': {'test': np.bincount(labels)},
        },
        'stages': [stage('rot', notes=['rate 0.058 of 6']), stage('classify', resumed=2)],
        'test': metrics.classification_figures(probabilities, labels, patients, CLASSES),
        'attention': metrics.attention_figures(ail, area, labels, patients, CLASSES),
        'boxes': metrics.attention_figures(
            ail / 2, np.where(np.arange(n) % 2, area / 4, np.nan), labels, patients, CLASSES,
            structure=metrics.BOXES,
        ),
        'versions': {'jax': '0.10.2'}, 'device': {'kind': 'cpu', 'count': np.int64(1)},
    }  # fmt: skip
    logs = [[{'step': i, 'loss': 2 / (1 + i)} for i in range(40)], [{'step': 1, 'loss': 1.0}]]
    gallery = {
        'images': rng.random((n, size, size)), 'cams': cams, 'masks': masks,
        'probabilities': probabilities, 'labels': labels, 'ail': ail,
    }  # fmt: skip
    predictions = {'probabilities': probabilities, 'labels': labels}
    return {'results': results, 'curves': logs, 'predictions': predictions, 'gallery': gallery}


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
    original['data']['class_counts']['test'] = original['data']['class_counts']['test'].tolist()
    assert read == original


def test_page_holds_the_numbers_of_the_json(tmp_path, run):
    write_report(tmp_path, **run)
    page = (tmp_path / 'results.md').read_text(encoding='utf-8')
    read = json.loads((tmp_path / 'results.json').read_text(encoding='utf-8'))
    test, attention = read['test'], read['attention']
    for key in ('balanced_accuracy', 'accuracy'):
        assert f'| {percent(test[key]["value"])} | {interval(test[key])} |' in page
    for key in ('macro_f1', 'macro_auc'):
        assert f'| {decimal(test[key]["value"])} | {interval(test[key], False)} |' in page
    for row, counts in zip(test['per_class'], test['confusion'], strict=True):
        cells = [row['name'], str(row['images']), str(row['patients']),
                 percent(row['accuracy']['value']), interval(row['accuracy'])]
        assert f'| {" | ".join(cells)} |' in page
        assert f'| {row["name"]} | {" | ".join(map(str, counts))} |' in page
    for row in attention['per_class']:
        assert f'| {percent(row["ail"]["value"])} | {interval(row["ail"])} |' in page
    assert f'chance is {percent(test["chance"]["balanced_accuracy"])}' in page
    for text in ('not a clinical result', read['command'], read['params_sha256'], '5,093',
                 '0.058', '0.987', '1.386', 'resumed 2 times', '2 min 03 s', 'rate 0.058 of 6'):
        assert text in page
    for name in FILES - {'results.json', 'results.md'}:
        assert f']({name})' in page


def test_page_embeds_only_pictures_that_exist_and_old_ones_go(tmp_path, run):
    write_report(tmp_path, **run)
    write_report(tmp_path, run['results'])
    page = (tmp_path / 'results.md').read_text(encoding='utf-8')
    assert {p.name for p in tmp_path.iterdir()} == {'results.json', 'results.md', 'confusion.png'}
    assert 'gallery.png' not in page and 'confusion.png' in page


def test_equal_results_give_equal_bytes(tmp_path, run):
    write_report(tmp_path / 'a', **run)
    write_report(tmp_path / 'b', **run)
    for name in FILES:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_run_without_classifier_or_masks(tmp_path, run):
    run['results'] |= {'test': None, 'attention': None, 'boxes': None}
    write_report(tmp_path, run['results'], curves=run['curves'])
    assert 'no classifier' in (tmp_path / 'results.md').read_text(encoding='utf-8')
    assert 'classify' in format_table(run['results'])


def test_absent_class_is_told_everywhere(tmp_path, run):
    labels = run['gallery']['labels'] % 2
    results = run['results']
    patients = np.arange(len(labels)).astype(str)
    probabilities = run['gallery']['probabilities']
    results['test'] = metrics.classification_figures(probabilities, labels, patients, CLASSES)
    nothing = np.full(len(labels), np.nan)
    results['attention'] = metrics.attention_figures(nothing, nothing, labels, patients, CLASSES)
    run['gallery'] |= {'labels': labels, 'masks': None, 'ail': nothing}
    run['predictions']['labels'] = labels
    write_report(tmp_path, **run)
    page = (tmp_path / 'results.md').read_text(encoding='utf-8')
    assert 'mean over 2 of 3 classes: no test image of class atypical' in page
    assert '| atypical | 0 | 0 | n/a | n/a | n/a | n/a | n/a |' in page
    assert 'AIL is not available' in page
    assert '30 test images have no lung mask' in page
    console = format_table(results)
    assert 'No test image of class atypical' in console and 'nan' not in (page + console).lower()


def test_boxes_are_told_where_there_are_some(tmp_path, run):
    results, boxes = run['results'], run['results']['boxes']
    write_report(tmp_path, **run)
    page, console = (tmp_path / 'results.md').read_text(), format_table(results)
    for text in (page, console):
        assert percent(boxes['box_attention']['value']) in text
        assert interval(boxes['box_attention']) in text
    assert f'In the {boxes["images"]} test images with boxes' in page
    results['boxes'] = boxes | {'images': 0}
    write_report(tmp_path, **run)
    assert 'boxes' not in (tmp_path / 'results.md').read_text() + format_table(results)


def test_results_that_lack_a_key_are_refused_before_anything_is_written(tmp_path, run):
    del run['results']['stages'][1]['wall_seconds']
    with pytest.raises(ValueError, match='stage of the report lacks wall_seconds'):
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
            f'cxr_jax.report.writer.{name}', lambda path, _: order.append(path.name)
        )
    write_report(tmp_path, **run)
    assert set(order) == FILES and order[-1] == 'results.json'


def test_examples_are_half_right_half_wrong_and_most_confident_first(run):
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 3, 300), rng.dirichlet(np.ones(3), 300)
    chosen = choose_examples(scores, labels)
    assert labels[chosen].tolist() == np.repeat([0, 1, 2], 4).tolist()
    right = scores[chosen].argmax(1) == labels[chosen]
    assert right.tolist() == [True, True, False, False] * 3
    for c in range(3):
        for kind in (True, False):
            mine = np.flatnonzero((labels == c) & ((scores.argmax(1) == c) == kind))
            expected = sorted(mine, key=lambda i: (-scores[i].max(), i))[:2]
            got = [i for i in chosen if labels[i] == c and (scores[i].argmax() == c) == kind]
            assert got == expected
    assert choose_examples(scores, labels).tolist() == chosen.tolist()
    kept = np.sort(chosen)
    assert kept[choose_examples(scores[kept], labels[kept])].tolist() == chosen.tolist()


@pytest.mark.parametrize(
    ('n_right', 'n_wrong', 'expected'),
    [(9, 9, (2, 2)), (9, 1, (3, 1)), (9, 0, (4, 0)), (1, 9, (1, 3)), (0, 9, (0, 4)),
     (1, 1, (1, 1))],
)
def test_places_of_a_missing_kind_go_to_the_other(n_right, n_wrong, expected):
    scores = np.array([[0.9, 0.1]] * n_right + [[0.2, 0.8]] * n_wrong)
    chosen = choose_examples(scores, np.zeros(len(scores), int))
    right = scores[chosen].argmax(1) == 0
    assert (right.sum(), (~right).sum()) == expected


def test_gallery_titles_tell_right_from_wrong(run):
    gallery = run['gallery']
    figure = gallery_picture(**gallery, classes=CLASSES)
    chosen = choose_examples(gallery['probabilities'], gallery['labels'])
    texts = [text for axes in figure.axes for text in axes.texts]
    first, second = texts[0::2], texts[1::2]
    assert len(first) == len(second) == len(chosen)
    for i, upper, lower in zip(chosen, first, second, strict=True):
        predicted, true = gallery['probabilities'][i].argmax(), gallery['labels'][i]
        assert upper.get_text().startswith(f'true: {CLASSES[true]} ')
        assert upper.get_text().endswith(f'AIL {100 * gallery["ail"][i]:.0f} %')
        assert f'predicted: {CLASSES[predicted]} (' in lower.get_text()
        assert to_hex(lower.get_color()).upper() == (RIGHT if predicted == true else WRONG)
    contours = [c for axes in figure.axes for c in axes.collections]
    assert len(contours) == len(chosen)


def test_map_without_positive_value_leaves_the_radiograph_untouched(run):
    gallery = {name: x[:1] for name, x in run['gallery'].items()}
    gallery |= {'cams': -np.ones((1, 24, 24)), 'masks': None, 'ail': np.array([np.nan])}
    figure = gallery_picture(**gallery, classes=CLASSES)
    assert [len(axes.images) for axes in figure.axes[:2]] == [1, 1]
    assert 'no AIL' in figure.axes[0].texts[0].get_text()


def test_confusion_picture_holds_counts_and_row_percents():
    figure = confusion_picture([[3, 1, 0], [0, 0, 0], [1, 1, 1]], CLASSES)
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ['3\n75.0 %', '1\n25.0 %', '0\n0.0 %', '–', '–', '–', *['1\n33.3 %'] * 3]


def test_area_under_the_drawn_roc_curve_is_the_auc():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    scores = np.round(rng.random((60, 3)), 1)  # with ties, which make slanted pieces
    figure = roc_picture(scores, labels, CLASSES)
    for c, line in enumerate(figure.axes[0].lines[1:]):
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert area == pytest.approx(metrics.rank_auc(scores[:, c], labels == c)[0], rel=1e-12)
        assert f'AUC {area:.3f}' in line.get_label()


def test_curves_show_raw_smoothed_and_chance():
    log = [{'step': 10 * i, 'loss': 3 - 0.05 * i} for i in range(40)]
    log[7]['loss'] = float('nan')
    figure = curves_picture([
        {'title': '1 rot', 'log': log, 'chance': math.log(4)},
        {'title': '2 byol', 'log': [], 'chance': None},
    ])
    raw, smoothed, chance = figure.axes[0].lines
    assert len(raw.get_xdata()) == 39 and 70 not in raw.get_xdata()
    assert len(smoothed.get_ydata()) == 39
    assert set(chance.get_ydata()) == {math.log(4)}
    assert figure.axes[1].texts[0].get_text() == 'no log'


def test_smoothing_keeps_lines_and_averages_noise():
    line = np.linspace(5, 1, 101)
    np.testing.assert_allclose(smooth(line)[:-2], line[:-2], rtol=1e-12)
    assert smooth(line)[-1] == pytest.approx(line[-3:].mean())
    noise = np.random.default_rng(0).normal(size=2000)
    middle = smooth(noise)[50:-50]
    np.testing.assert_allclose(middle[100], noise[100:201].mean(), rtol=1e-9)
    assert middle.std() == pytest.approx(1 / math.sqrt(101), rel=0.4)


def test_pictures_leave_matplotlibs_settings_alone(tmp_path, run):
    before = dict(matplotlib.rcParams)
    write_report(tmp_path, **run)
    assert dict(matplotlib.rcParams) == before


def test_console_table_is_narrow_aligned_ascii(run):
    results = run['results']
    results['data']['classes'] = [f'class of a quite long name {c}' for c in range(3)]
    for row, name in zip(results['test']['per_class'], results['data']['classes'], strict=True):
        row['name'] = name
    results['stages'] = [stage(
        'a_task_with_an_endless_name', epochs=1234.567, steps=123_456_789, batch_size=65536,
        learning_rate=1.23456e-5, images_per_second=123456.7, wall_seconds=123 * 3600 + 59 * 60,
        metrics={'loss': 12345.678, 'chance_loss': 12345.678}, reused=False,
    )]  # fmt: skip
    text = format_table(results)
    assert text.isascii() and max(map(len, text.splitlines())) < 100
    stages, headline, classes = text.split('\n\n')[1:4]
    for block in (stages, headline, classes):
        lines = block.splitlines()
        assert len({len(line) for line in lines}) == 1
    assert percent(results['test']['balanced_accuracy']['value']) in headline
    assert interval(results['attention']['ail']) in headline


def test_cautions_name_every_reason_for_doubt(run):
    results = run['results']
    assert cautions(results) == ['not a clinical result']
    results['data']['has_patient_ids'] = False
    results['region'] = 'lungs_black'
    results['stages'][0]['metrics']['loss'] = 1.5
    results['stages'][1]['metrics']['loss'] = float('inf')
    results['attention'] |= {'without_mask': 3, 'without_activation': 2}
    results['test']['balanced_accuracy'] |= {'low': 0.3}
    results['test']['per_class'][1]['accuracy'] |= {'low': 1.0, 'high': 1.0}
    found = cautions(results)
    for words in ('no patient ids', 'rot ended at a loss of 1.500', 'classify is not finite',
                  'region lungs_black', '3 test images have no lung mask', '2 test images have no',
                  'down to chance (33.3 %)', 'right in: typical'):
        assert sum(words in text for text in found) == 1, words


@pytest.mark.parametrize(
    ('low', 'high', 'verdict'),
    [(0.02, 0.08, 'favour the lungs'), (-0.08, -0.02, 'outside the lungs'),
     (-0.01, 0.03, 'not distinguishable')],
)
def test_finding_follows_the_interval_of_the_difference(low, high, verdict):
    figure = {'value': (low + high) / 2, 'low': low, 'high': high, 'reason': ''}
    sentence = attention_finding({'excess': figure})
    assert verdict in sentence and f'{100 * low:+.1f} to {100 * high:+.1f}' in sentence


def test_numbers_in_words():
    assert [duration(x) for x in (12.34, 59.96, 185, 3599.6, 7620, None)] == [
        '12.3 s', '1 min 00 s', '3 min 05 s', '1 h 00 min', '2 h 07 min', 'n/a'
    ]  # fmt: skip
    assert [plain(x) for x in (1241, 12345.6, 0.0580001, 1.5, 3e-5, float('nan'))] == [
        '1,241', '12,350', '0.058', '1.5', '3e-05', 'n/a'
    ]  # fmt: skip
    assert percent(0.83214) == '83.2 %'
    assert [decimal(x) for x in (0.9, 1234.5, None)] == ['0.900', '1,234', 'n/a']
