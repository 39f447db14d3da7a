"""The bench `against`: two checkouts take turns; and the set of noise that benches read."""

import argparse
import json

import numpy as np
import pytest

from data_pipelines.prepared import loader
from data_pipelines.prepared.data import open_prepared
from scripts.benches import against, prepared_set

FAKE = """
import json, pathlib, sys
turns = pathlib.Path(__file__).parents[1] / 'turns'
number = len(turns.read_text().splitlines()) if turns.exists() else 0
order = pathlib.Path(__file__).parents[2] / 'order'
print('not a line of the bench')
for what, value in {values}[number].items():
    print(json.dumps({{'what': what, 'images_per_s': value, 'least': 0}}))
turns.open('a').write(' '.join(sys.argv[1:]) + '\\n')
order.open('a').write(turns.parent.name + '\\n')
"""


@pytest.fixture
def checkouts(tmp_path):
    """Two whose `input` prints made-up lines: three rounds of each."""
    values = {
        'old': [{'whole': 100, 'gone': 1}, {'whole': 200, 'gone': 1}, {'whole': 120, 'gone': 1}],
        'new': [{'whole': 110}, {'whole': 100}, {'whole': 180}],
    }
    for name, own in values.items():
        path = tmp_path / name / 'scripts' / 'bench.py'
        path.parent.mkdir(parents=True)
        path.write_text(FAKE.format(values=own))
    return tmp_path


def test_both_sides_take_turns_and_are_compared_round_by_round(checkouts, monkeypatch, capsys):
    monkeypatch.setattr(against, 'ROOT', checkouts / 'new')
    against.bench_against(3, checkouts / 'old', ['input'])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    # Ratios of the rounds: 1.1, 0.5, 1.5.
    assert {k: first[k] for k in ('part', 'old', 'new', 'speed', 'least', 'most', 'rounds')} == {
        'part': 'whole', 'old': 120, 'new': 110, 'speed': 1.1, 'least': 0.5, 'most': 1.5,
        'rounds': 3,
    }  # fmt: skip
    assert second['of_one_side_only'] == ['gone, images_per_s']
    assert (checkouts / 'order').read_text().split() == ['old', 'new', 'new', 'old', 'old', 'new']
    assert (checkouts / 'new' / 'turns').read_text().splitlines() == ['input --rounds 1'] * 3


def test_a_time_that_halves_is_twice_the_speed():
    found = {'old': [{('whole', 'wall_s'): 8.0}], 'new': [{('whole', 'wall_s'): 4.0}]}
    (line,) = against.compared('demo', found)
    assert (line['speed'], line['old'], line['new']) == (2.0, 8.0, 4.0)


def test_a_side_that_fails_is_told(checkouts, monkeypatch):
    monkeypatch.setattr(against, 'ROOT', checkouts / 'new')
    (checkouts / 'new' / 'scripts' / 'bench.py').write_text('raise RuntimeError("broken")')
    with pytest.raises(SystemExit, match='(?s)failed in .*new.*broken'):
        against.bench_against(1, checkouts / 'old', ['input'])
    with pytest.raises(SystemExit, match='no scripts/bench.py'):
        against.bench_against(1, checkouts, ['input'])
    with pytest.raises(argparse.ArgumentTypeError, match='step,fast'):
        against.parse_what('step,fast')


def test_the_set_of_noise_is_a_prepared_set(tmp_path):
    size = prepared_set.write_set(tmp_path, 300, 16)
    data = open_prepared(tmp_path, prepared_set.NAME, 16)
    assert [len(data.corpus(split)) for split in ('train', 'validation', 'test')] == [300, 64, 64]
    assert size > 428 * 256
    corpus = data.corpus('train')
    images = loader.whole(corpus)['image'] / 255
    # The index's sums are those of the records.
    found = corpus.statistics('full')
    np.testing.assert_allclose([found['mean'], found['std']], [images.mean(), images.std()])
    np.testing.assert_array_equal(corpus.column('labels').argmax(1), np.arange(300) % 4)
