"""The pictures of a run, and which images they show."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cxr_jax.report import choose_examples
from cxr_jax.report.figures.gallery import RIGHT, WRONG, gallery_picture
from cxr_jax.report.figures.health import health_picture
from cxr_jax.report.figures.pictures import confusion_picture, curves_picture, roc_picture, smooth
from cxr_jax.report.measures import Measure
from tests.report.made_up import CLASSES, FINDINGS, made_up_run


@pytest.fixture
def gallery():
    return made_up_run()['gallery']


def test_examples_are_half_right_half_wrong_and_most_confident_first():
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


def test_examples_of_findings_are_those_whose_score_is_the_highest():
    rng = np.random.default_rng(2)
    labels, scores = rng.choice([1, 0, -1], (300, 3)), rng.random((300, 3))
    chosen = choose_examples(scores, labels)
    highest = scores.argmax(1)
    own = labels[np.arange(300), highest]
    assert highest[chosen].tolist() == np.repeat([0, 1, 2], 4).tolist()
    assert own[chosen].tolist() == [1, 1, 0, 0] * 3
    for i in chosen:
        better = (highest == highest[i]) & (own == own[i]) & (scores.max(1) > scores[i].max())
        assert better.sum() <= 1
    kept = np.sort(chosen)
    assert kept[choose_examples(scores[kept], labels[kept])].tolist() == chosen.tolist()


def test_gallery_of_findings_names_what_is_there_and_whose_map_it_is():
    gallery = {name: x[:3] for name, x in made_up_run(exclusive=False)['gallery'].items()}
    gallery['labels'] = np.array([[1, 0, 1], [0, -1, 0], [-1, 1, 1]])
    gallery['scores'] = np.array([[0.9, 0.2, 0.1], [0.4, 0.1, 0.2], [0.8, 0.2, 0.1]])
    figure = gallery_picture(**gallery, names=FINDINGS)
    texts = [text for axes in figure.axes for text in axes.texts]
    assert [text.get_text().split('  ·')[0] for text in texts] == [
        'true: effusion, mass', '✓ highest: effusion (90 %)',
        'true: none known', '✗ highest: effusion (40 %)',
    ]  # fmt: skip
    assert [to_hex(text.get_color()).upper() for text in texts[1::2]] == [RIGHT, WRONG]
    assert any('finding with the highest score' in text.get_text() for text in figure.texts)


def test_gallery_titles_tell_right_from_wrong(gallery):
    figure = gallery_picture(**gallery, names=CLASSES)
    chosen = choose_examples(gallery['scores'], gallery['labels'])
    texts = [text for axes in figure.axes for text in axes.texts]
    first, second = texts[0::2], texts[1::2]
    assert len(first) == len(second) == len(chosen)
    for i, upper, lower in zip(chosen, first, second, strict=True):
        predicted, true = gallery['scores'][i].argmax(), gallery['labels'][i]
        assert upper.get_text().startswith(f'true: {CLASSES[true]} ')
        assert upper.get_text().endswith(f'AIL {100 * gallery["ail"][i]:.0f} %')
        assert f'predicted: {CLASSES[predicted]} (' in lower.get_text()
        assert to_hex(lower.get_color()).upper() == (RIGHT if predicted == true else WRONG)
    contours = [c for axes in figure.axes for c in axes.collections]
    assert len(contours) == len(chosen)


def test_map_without_positive_value_leaves_the_radiograph_untouched(gallery):
    gallery = {name: x[:1] for name, x in gallery.items()}
    gallery |= {'cams': -np.ones((1, 24, 24)), 'masks': None, 'ail': np.array([np.nan])}
    figure = gallery_picture(**gallery, names=CLASSES)
    assert [len(axes.images) for axes in figure.axes[:2]] == [1, 1]
    assert 'no AIL' in figure.axes[0].texts[0].get_text()


def test_names_are_not_read_as_mathematics():
    names = ['costs $5 and $6', '$\\frac{', '$x_1$']
    scores, labels = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 1])
    figures = [
        confusion_picture(np.eye(3, dtype=int), names), roc_picture(scores, labels, names),
        curves_picture([{'title': names[1], 'log': [], 'chance': None}]),
    ]  # fmt: skip
    for figure in figures:
        texts = [text for text in figure.findobj(match=type(figure.text(0, 0, ''))) if '$' in
                 text.get_text()]  # fmt: skip
        assert texts and not any(text.get_parse_math() for text in texts)
        figure.canvas.draw()


def test_confusion_picture_holds_counts_and_row_percents():
    figure = confusion_picture([[3, 1, 0], [0, 0, 0], [1, 1, 1]], CLASSES)
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ['3\n75.0 %', '1\n25.0 %', '0\n0.0 %', '–', '–', '–', *['1\n33.3 %'] * 3]


def pairs_auc(scores, positive):
    """Share of the pairs of a positive and a negative in which the positive is higher."""
    difference = scores[positive][:, None] - scores[~positive][None]
    return ((difference > 0) + (difference == 0) / 2).mean()


def test_area_under_the_drawn_roc_curve_is_the_auc():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, 60)
    scores = np.round(rng.random((60, 3)), 1)  # with ties, which make slanted pieces
    lines = roc_picture(scores, labels, CLASSES).axes[0].lines[1:]
    known = labels >= 0
    assert len(lines) == 3
    for c, line in enumerate(lines):
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert area == pytest.approx(pairs_auc(scores[known, c], labels[known] == c), rel=1e-12)
        assert f'AUC {area:.3f}, n = {(labels == c).sum()})' in line.get_label()


def test_roc_of_a_finding_is_that_of_the_images_in_which_it_is_known():
    rng = np.random.default_rng(0)
    labels = rng.choice([1, 0, -1], (60, 3))
    labels[labels[:, 2] == 0, 2] = -1  # no image is known to be without the last one
    scores = np.round(rng.random((60, 3)), 1)
    lines = roc_picture(scores, labels, FINDINGS).axes[0].lines[1:]
    assert [line.get_label().split(' (')[0] for line in lines] == FINDINGS[:2]
    for k, line in enumerate(lines):
        known = labels[:, k] >= 0
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        expected = pairs_auc(scores[known, k], labels[known, k] == 1)
        assert area == pytest.approx(expected, rel=1e-12)
        assert f'n = {(labels[:, k] == 1).sum()} of {known.sum()})' in line.get_label()


def test_health_shows_every_fold_and_shades_alarms():
    """Of two folds of rot and one of classify: lines of the rows, alarms from look to look."""
    looks, probes = (made_up_run()['watched'][0][kind] for kind in ('looks', 'probes'))
    watched = [
        {'looks': looks, 'probes': probes},
        {'looks': [row | {'std': 0.7, 'alarms': []} for row in looks], 'probes': []},
        {'looks': [], 'probes': probes},
    ]
    measure = Measure('Balanced accuracy', 'percent', True, 1 / 3)
    figure = health_picture(['rot', 'rot', 'classify'], watched, measure)
    spread, rank, similarity, frozen, *of_classify = figure.axes
    assert [axes.get_title(loc='left') for axes in figure.axes[:4]] == [
        'standard deviation', 'effective rank', 'cosine similarity', 'Balanced accuracy, frozen',
    ]  # fmt: skip
    assert [set(line.get_ydata()) for line in spread.lines] == [{0.5}, {0.7}]
    assert [line.get_label() for line in similarity.lines[:2]] == [
        'views of one image', 'different images',
    ]  # fmt: skip
    np.testing.assert_array_equal(rank.lines[0].get_ydata(), [20 / (1 + k) for k in range(10)])
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in rank.patches]
    assert spans == [(2.5, 3.0), (3.0, 3.5), (3.5, 4.0)]
    assert [line.get_ydata()[-1] for line in frozen.lines] == [0.5, 0.3, 1 / 3]
    assert [len(axes.lines) for axes in of_classify] == [0, 0, 0, 3]
    alone = health_picture(['rot'], [{'looks': looks, 'probes': []}])
    assert len(alone.axes) == 3


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


