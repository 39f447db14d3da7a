"""Paired tests, Holm's correction and means over seeds against plain loops and known results."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest

from cxr_jax.evaluation import metrics
from cxr_jax.evaluation.bootstrap import patient_bootstrap
from cxr_jax.study.comparison import BEST_SINGLE, compare_all, holm, label_order, paired_difference
from cxr_jax.study.seed_means import mean_over_seeds, summarise
from data_pipelines.errors import UserError


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def table(right, labels, patients, k=None):
    """Predictions that are right where `right` says so."""
    k = k or labels.max() + 1
    predictions = np.where(right, labels, (labels + 1) % k)
    ids = np.array([f'image{i:04d}' for i in range(len(labels))])
    return {'probabilities': np.eye(k)[predictions], 'labels': labels,
            'patients': np.asarray(patients).astype(str), 'image_ids': ids}  # fmt: skip


def made_up(skills, n=120, k=3, seed=0):
    """One table for each skill, of the same images, two a patient."""
    rng = np.random.default_rng(seed)
    labels, patients = rng.integers(0, k, n), [f'p{i // 2:03d}' for i in range(n)]
    return [table(rng.random(n) < skill, labels, patients, k) for skill in skills]


def shuffled(one, order):
    return {name: x[order] for name, x in one.items()}


def balanced(one, images):
    labels, predictions = one['labels'][images], one['probabilities'][images].argmax(1)
    classes = range(one['probabilities'].shape[1])
    shares = [[p == c for t, p in zip(labels, predictions, strict=True) if t == c] for c in classes]
    return np.mean([np.mean(share) if share else math.nan for share in shares])


def loop_samples(first, second, resamples, seed):
    """Differences of every resample, with the drawn patients' images copied out."""
    one = first[0]
    names, codes = np.unique(one['patients'], return_inverse=True)
    draws = patient_bootstrap(lambda c: {'counts': c}, len(names), len(codes), resamples, seed)
    found = []
    for counts in draws['counts']:
        images = np.repeat(np.arange(len(codes)), counts[codes].astype(int))
        means = [np.mean([balanced(t, images) for t in tables]) for tables in (first, second)]
        found.append(means[0] - means[1])
    return np.array(found)


def test_difference_equals_a_loop_over_resamples_with_two_seeds_and_one():
    a, b, c = made_up([0.7, 0.6, 0.55], n=40)
    found = paired_difference([a, b], [c], resamples=80, seed=3)
    everything = np.arange(40)
    value = (balanced(a, everything) + balanced(b, everything)) / 2 - balanced(c, everything)
    samples = loop_samples([a, b], [c], 80, 3)
    figure = found['difference']
    assert figure['value'] == pytest.approx(value, rel=1e-12)
    low, high = np.percentile(samples, [2.5, 97.5])
    assert [figure['low'], figure['high']] == pytest.approx([low, high], rel=1e-10)
    extreme = sum(abs(d - value) >= abs(value) - 1e-9 for d in samples)
    assert 2 < extreme < 79 and found['p'] == pytest.approx((1 + extreme) / 81, rel=1e-12)
    assert (found['images'], found['patients']) == (40, 20)


def test_equal_models_have_a_p_value_of_one():
    a, b = made_up([0.7, 0.6])
    for first, second in (([a], [a]), ([a, b], [a, b]), ([a, b], [b, a])):
        found = paired_difference(first, second, 500)
        assert found['p'] == 1
        assert [found['difference'][k] for k in ('value', 'low', 'high')] == pytest.approx([0] * 3)


def test_a_clearly_better_model_has_the_least_possible_p_value_which_is_not_zero():
    better, worse = made_up([0.95, 0.4])
    found = paired_difference([better], [worse], 999)
    assert found['p'] == 1 / 1000 and found['difference']['low'] > 0.3
    swapped = paired_difference([worse], [better], 999)
    assert swapped['p'] == found['p']
    assert swapped['difference']['value'] == -found['difference']['value']
    assert swapped['difference']['low'] == pytest.approx(-found['difference']['high'])


def test_p_value_is_near_that_of_the_normal_approximation():
    labels, rng = np.zeros(600, int), np.random.default_rng(1)
    both, only_a, only_b = 400, 62, 42  # images right for both models, for one of them
    right_a = np.arange(600) < both + only_a
    right_b = (np.arange(600) < both) | (np.arange(600) >= 600 - only_b)
    order = rng.permutation(600)
    a, b = (table(x[order], labels, np.arange(600), 2) for x in (right_a, right_b))
    found = paired_difference([a], [b])
    d = (only_a - only_b) / 600
    sd = math.sqrt((only_a + only_b) / 600 - d * d) / math.sqrt(600)
    normal = math.erfc(d / sd / math.sqrt(2))
    assert found['difference']['value'] == pytest.approx(d)
    assert found['p'] == pytest.approx(normal, abs=0.01) and 0.03 < normal < 0.07
    half = 1.96 * sd
    assert found['difference']['high'] == pytest.approx(d + half, abs=0.1 * half)


def test_pairing_narrows_the_interval():
    """Errors in common cancel; independent ones add."""
    rng = np.random.default_rng(2)
    labels, patients = np.arange(300) % 2, np.arange(300)
    right = rng.random(300) < 0.7
    near = right ^ (rng.random(300) < 0.05)
    a, b, c = (table(x, labels, patients) for x in (right, near, rng.random(300) < 0.7))

    def width(x, y):
        figure = paired_difference([x], [y], 1000)['difference']
        return figure['high'] - figure['low']

    # Share of images on which they disagree: about 0.05 against 0.42.
    assert width(a, c) / width(a, b) == pytest.approx(math.sqrt(0.42 / 0.05), rel=0.3)


def test_order_of_the_images_and_unlabelled_images_do_not_matter():
    a, b = made_up([0.7, 0.6])
    order = np.random.default_rng(0).permutation(120)
    before = paired_difference([a], [b], 300)
    assert paired_difference([shuffled(a, order)], [b], 300) == before
    extra = {name: np.concatenate([x, x[:5]]) for name, x in a.items()}
    extra['labels'][-5:] = -1
    assert paired_difference([extra], [b], 300) == before


def test_the_test_is_right_under_the_null_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    rejected, covered = 0, 0
    for trial in range(200):
        labels, patients = np.arange(120) % 2, np.arange(120) // 2
        pair = [np.repeat(rng.random(60) < 0.6, 2) for _ in range(2)]
        a, b = (table(right, labels, patients) for right in pair)
        found = paired_difference([a], [b], resamples=400, seed=trial)
        rejected += found['p'] < 0.05
        covered += found['difference']['low'] <= 0 <= found['difference']['high']
    assert 2 <= rejected <= 22 and 178 <= covered <= 198  # 10 and 190 with a deviation of 3


def test_other_images_are_refused_with_the_names_of_the_runs():
    a, b = made_up([0.7, 0.6])
    other = a | {'image_ids': np.char.add(a['image_ids'], 'x')}
    runs = [run('scratch', 0, b), run('rot', 0, other)]
    with pytest.raises(UserError, match=r'scratch \(full, seed 0\) and rot .* differ in image ids'):
        compare_all(runs)
    with pytest.raises(UserError, match='differ in labels'):
        paired_difference([a], [b | {'labels': (b['labels'] + 1) % 3}])
    with pytest.raises(UserError, match=r'differ in image ids \(120 and 119 labelled'):
        paired_difference([a], [shuffled(b, np.arange(119))])


def test_class_of_a_single_patient_leaves_a_p_value_and_only_one_patient_none():
    a, b = made_up([0.7, 0.6], n=40)
    lonely = np.full(40, 'same')
    found = paired_difference([a | {'patients': lonely}], [b | {'patients': lonely}], 50)
    assert found['p'] is None and found['difference']['low'] is None
    assert 'one patient' in found['difference']['reason']


@pytest.mark.parametrize(
    ('raw', 'adjusted'),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Wikipedia's example
        # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), 'holm')
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.9, 0.8, 0.0001], [1, 1, 0.0003]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_of_known_examples(raw, adjusted):
    assert holm(raw) == pytest.approx(adjusted, rel=1e-12)
    for order in itertools.islice(itertools.permutations(range(len(raw))), 24):
        expected = [adjusted[i] for i in order]
        assert holm([raw[i] for i in order]) == pytest.approx(expected, rel=1e-12)


def test_a_missing_p_value_counts_as_a_comparison_and_stays_missing():
    first, missing, last = holm([0.01, None, 0.03])
    assert missing is None and [first, last] == pytest.approx([0.03, 0.06])


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.random(8) ** 3
        rejected, order = set(), np.argsort(p)
        for i, index in enumerate(order):
            if p[index] > 0.05 / (8 - i):
                break
            rejected.add(index)
        assert {i for i, x in enumerate(holm(p.tolist())) if x <= 0.05} == rejected


def run(name, seed, predictions, region='full', class_set='all', kind=None):
    kinds = {'scratch': 'baseline', 'imagenet': 'baseline', 'rot': 'single', 'moco': 'single'}
    return {'name': name, 'region': region, 'class_set': class_set, 'seed': seed,
            'kind': kind or kinds.get(name, 'pair'), 'predictions': predictions}  # fmt: skip


def a_study():
    names = ('scratch', 'rot', 'moco', 'rot_moco')
    tables = made_up([0.45, 0.6, 0.7, 0.75] * 2)
    runs = [run(names[i % 4], i // 4, each) for i, each in enumerate(tables)]
    lungs = [run(name, 0, each, 'lungs_black') for name, each in zip(names, tables, strict=False)]
    tables = made_up([0.5, 0.9, 0.6, 0.7], k=2, n=60)
    two = [run(n, 0, t, 'lungs_black', 'two') for n, t in zip(names, tables, strict=True)]
    return runs + lungs + two


def test_every_curriculum_meets_every_reference_once_and_holm_spans_the_region():
    found = compare_all(a_study(), resamples=400, seed=1)
    json.dumps(found, allow_nan=False)
    rows = found['comparisons']
    pairs = {(r['name'], r['reference'], r['role']) for r in rows if r['region'] == 'full'}
    assert pairs == {
        ('rot', 'scratch', 'scratch'), ('moco', 'scratch', 'scratch'),
        ('rot_moco', 'scratch', 'scratch'),
        ('rot', 'moco', BEST_SINGLE), ('rot_moco', 'moco', BEST_SINGLE),
    }  # fmt: skip
    assert found['families'] == [
        {'region': 'full', 'comparisons': 5, 'best_single': {'all': 'moco'}},
        {'region': 'lungs_black', 'comparisons': 10,
         'best_single': {'all': 'moco', 'two': 'rot'}},
    ]  # fmt: skip
    for region in ('full', 'lungs_black'):
        mine = [r for r in rows if r['region'] == region]
        assert [r['p_holm'] for r in mine] == holm([r['p'] for r in mine])
    assert (found['resamples'], found['seed'], found['confidence']) == (400, 1, 0.95)


def test_comparisons_are_those_of_the_pair_alone():
    runs = a_study()
    rows = compare_all(runs, resamples=300, seed=2)['comparisons']
    row = next(r for r in rows if (r['region'], r['name']) == ('full', 'rot_moco'))
    tables = {(r['name'], r['seed']): r['predictions'] for r in runs if r['region'] == 'full'}
    alone = paired_difference(
        [tables['rot_moco', s] for s in (0, 1)], [tables['scratch', s] for s in (0, 1)], 300, 2
    )
    assert row['seeds'] == [0, 1] and {k: row[k] for k in alone} == alone


def test_only_seeds_of_both_are_compared():
    tables = made_up([0.5, 0.7, 0.6])
    runs = [run('scratch', 0, tables[0]), run('rot_moco', 0, tables[1]),
            run('rot_moco', 1, tables[2]), run('moco_rot', 1, tables[2])]  # fmt: skip
    rows = {r['name']: r for r in compare_all(runs, resamples=100)['comparisons']}
    assert rows['rot_moco']['seeds'] == [0]
    assert rows['rot_moco']['difference'] == paired_difference(
        [tables[1]], [tables[0]], 100
    )['difference']  # fmt: skip
    missing = rows['moco_rot']
    assert missing['p'] is None and missing['p_holm'] is None and missing['seeds'] == []
    assert missing['difference']['reason'] == 'no seed in common'


def with_attention(one, seed):
    rng, n = np.random.default_rng(seed), len(one['labels'])
    area, box_area = rng.uniform(0.2, 0.4, (2, n))
    box_area[: n // 2] = np.nan
    return one | {'ail': rng.random(n), 'lung_area': area, 'box_attention': rng.random(n),
                  'box_area': box_area}  # fmt: skip


def test_one_seed_has_the_figures_of_the_single_run():
    one = with_attention(made_up([0.7])[0], 0)
    found = mean_over_seeds([one], resamples=300, seed=4)
    rest = (one['labels'], one['patients'], 'abc', 4, 300)
    alone = metrics.classification_figures(one['probabilities'], *rest)
    lungs = metrics.attention_figures(one['ail'], one['lung_area'], *rest)
    boxes = metrics.attention_figures(one['box_attention'], one['box_area'], *rest, metrics.BOXES)
    pairs = [(found['balanced_accuracy'], alone['balanced_accuracy'])]
    pairs += zip(
        found['class_accuracy'], (row['accuracy'] for row in alone['per_class']), strict=True
    )
    for part, single, share, area in (
        ('attention', lungs, 'ail', 'lung_area'), ('boxes', boxes, 'box_attention', 'box_area')
    ):  # fmt: skip
        assert found[part]['images'] == single['images']
        pairs += [(found[part][key], single[key]) for key in (share, area, 'excess')]
    assert len(pairs) == 10
    for ours, theirs in pairs:
        for key in ('value', 'low', 'high'):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-12)
        assert ours['sd'] is None and ours['per_seed'] == [ours['value']]
    assert found['n_seeds'] == 1


def test_seeds_are_averaged_within_each_resample():
    tables = made_up([0.9, 0.6, 0.7], n=40)
    found = mean_over_seeds(tables, resamples=80, seed=3)['balanced_accuracy']
    singles = [balanced(t, np.arange(40)) for t in tables]
    assert found['per_seed'] == pytest.approx(singles, rel=1e-12)
    assert found['value'] == pytest.approx(np.mean(singles), rel=1e-12)
    assert found['sd'] == pytest.approx(np.std(singles, ddof=1), rel=1e-12)
    # Minus a model that is always wrong, so minus zero.
    wrong = [tables[0] | {'probabilities': np.eye(3)[(tables[0]['labels'] + 1) % 3]}]
    samples = np.mean([loop_samples([t], wrong, 80, 3) for t in tables], axis=0)
    low, high = np.percentile(samples, [2.5, 97.5])
    assert [found['low'], found['high']] == pytest.approx([low, high], rel=1e-10)


def test_copies_of_a_seed_change_nothing_but_the_spread():
    one = with_attention(made_up([0.7])[0], 0)
    single, triple = mean_over_seeds([one]), mean_over_seeds([one] * 3)
    for a, b in ((single['balanced_accuracy'], triple['balanced_accuracy']),
                 (single['boxes']['excess'], triple['boxes']['excess'])):  # fmt: skip
        assert [b[k] for k in ('value', 'low', 'high')] == pytest.approx(
            [a[k] for k in ('value', 'low', 'high')], rel=1e-12
        )
        assert b['sd'] == pytest.approx(0, abs=1e-15) and len(b['per_seed']) == 3


def test_what_is_missing_is_null_with_a_reason():
    one = made_up([0.7])[0]
    found = mean_over_seeds([one], 50)
    assert found['attention'] is None and found['boxes'] is None
    empty = with_attention(one, 0) | {'box_area': np.full(120, np.nan)}
    found = mean_over_seeds([empty, with_attention(one, 1)], 50)
    assert found['boxes']['excess']['per_seed'][0] is None
    assert found['boxes']['excess']['sd'] is None and found['attention']['ail']['sd'] > 0
    found = mean_over_seeds([empty], 50)
    assert found['boxes']['images'] == 0
    assert found['boxes']['box_attention']['value'] is None
    assert found['boxes']['box_attention']['reason'] == 'no test image with a lesion box and a map'
    absent = shuffled(one, np.flatnonzero(one['labels'] != 1))
    found = mean_over_seeds([absent], 50)
    assert found['class_accuracy'][1]['reason'] == 'no test image of this class'
    assert 'mean over the 2 classes' in found['balanced_accuracy']['reason']
    json.dumps(found, allow_nan=False)


def test_summary_has_a_row_for_every_curriculum_region_and_class_set():
    runs = a_study()
    found = summarise(runs, 50)
    names = ['scratch', 'rot', 'moco', 'rot_moco']
    assert [(r['region'], r['class_set'], r['name'], r['seeds']) for r in found] == [
        *(('full', 'all', name, [0, 1]) for name in names),
        *(('lungs_black', 'all', name, [0]) for name in names),
        *(('lungs_black', 'two', name, [0]) for name in names),
    ]
    alone = mean_over_seeds([runs[1]['predictions'], runs[5]['predictions']], 50)
    assert {key: found[1][key] for key in alone} == alone


@pytest.mark.parametrize(
    ('tasks', 'label'),
    [
        ('rot moco', 'curriculum'), ('moco rot', 'anti-curriculum'), ('rot moco swav', 'mixed'),
        ('rot swav moco', 'curriculum'), ('moco swav rot', 'anti-curriculum'),
        ('rot tie', 'mixed'), ('rot', ''), ('', ''), ('rot unknown', ''),
        ('rot tie swav moco', 'full mixed'), ('rot tie swav moco unknown', 'full'),
    ],
)  # fmt: skip
def test_order_labels(tasks, label):
    results = {'rot': 0.5, 'tie': 0.5, 'swav': 0.6, 'moco': 0.7}
    assert label_order(tasks.split(), results, results) == label


def test_full_curricula_keep_their_order():
    results = {'rot': 0.5, 'swav': 0.6}
    assert label_order(['rot', 'swav'], results, results) == 'full curriculum'
    assert label_order(['swav', 'rot'], results, results) == 'full anti-curriculum'
