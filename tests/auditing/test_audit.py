"""The audit of two sets that were prepared from drawn films with planted copies and a person.

Set a: a0 .. a4 to train on, a5 to validate, a6 and a7 to test; a7 is a1 with another gamma and
another label. Set b, all to train on: b0 is the file of a1, b1 a crop of a5, b2 of the patient of
a3, b3 has no contrast, b4 and b5 are nobody's.
"""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines import audit
from data_pipelines.auditing.overlap import overlap
from data_pipelines.auditing.stored import LOOKS_FILE, looks_of, stored_looks
from data_pipelines.prepare import prepare
from data_pipelines.prepared.data import open_prepared
from tests.auditing.test_near import film

SIZE, PIXELS = 64, 128
SPLIT = {**dict.fromkeys(('a0', 'a1', 'a2', 'a3', 'a4'), 'train'), 'a5': 'validation',
         'a6': 'test', 'a7': 'test'}  # fmt: skip
COPIES = {('a/a1', 'a/a7', 'near'), ('a/a1', 'b/b0', 'exact'), ('a/a5', 'b/b1', 'near')}


def draw() -> dict[str, np.ndarray]:
    films = {f'a{k}': film(k, PIXELS) for k in range(7)}
    films |= {f'b{k}': film(20 + k, PIXELS) for k in (2, 4, 5)}
    side = round(0.9 * PIXELS)
    return films | {
        'a7': films['a1'] ** 0.6, 'b0': films['a1'], 'b1': films['a5'][3 : 3 + side, 9 : 9 + side],
        'b3': np.full((PIXELS, PIXELS), 0.5),
    }  # fmt: skip


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('audit')
    films = draw()
    for name, pixels in films.items():
        path = folder / name[0] / 'images' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(path)
    for each in 'ab':
        rows = [
            (f'images/{n}.png', {'b2': 'a3'}.get(n, n), 'ill' if n in ('a1', 'b0') else 'well')
            for n in sorted(films) if n[0] == each
        ]  # fmt: skip
        with (folder / each / 'metadata.csv').open('w', newline='') as file:
            csv.writer(file).writerows([('file', 'patient', 'label'), *rows])
    with (folder / 'a' / 'splits.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('patient', 'split'), *SPLIT.items()])
    for each, splits in (('a', 'given'), ('b', 'none')):
        prepare('image_folder', folder / each, folder / 'data', SIZE, name=each, splits=splits,
                processes=1)  # fmt: skip
    return folder / 'data'


def found_in(report: dict) -> set[tuple]:
    def short(end: dict) -> str:
        return f'{end["set"]}/{end["file"].removeprefix("images/").removesuffix(".png")}'

    return {(*sorted((short(p['a']), short(p['b']))), p['kind']) for p in report['pairs']}


def test_the_json_names_files_kinds_splits_and_contradicting_labels(data_dir, tmp_path, capsys):
    path = tmp_path / 'audit.json'
    words = ['--data_dir', str(data_dir), '--sets', 'a,b', '--json', str(path)]
    assert audit.main(words) == 0
    report = json.loads(path.read_text())
    # b0 is the same file as a1, so that its pair with a7 tells nothing new.
    assert found_in(report) == COPIES | {('a/a3', 'b/b2', 'patient')}
    by_kind = {(p['kind'], *sorted(p['splits'])): p for p in report['pairs']}
    assert by_kind['near', 'test', 'train']['conflict'] == ['ill', 'well']
    assert by_kind['exact', 'train', 'train']['conflict'] == []
    assert by_kind['exact', 'train', 'train']['agreement'] == 1
    doubted = {each['file']: each['reasons'] for each in report['images'] if each['set'] == 'b'}
    assert doubted['images/b3.png'] == [
        'nearly constant: 98 % of its pixels lie within 0.0 % of the grey values'
    ]
    assert {(row['kind'], row['pairs'], row['conflicts']) for row in report['summary']} == {
        ('exact', 1, 0), ('near', 1, 1), ('near', 1, 0), ('patient', 1, 0),
    }  # fmt: skip
    assert 'a test - a train, 1 with other labels' in capsys.readouterr().out


def test_strict_makes_findings_errors_and_mistakes_are_told(data_dir, tmp_path, capsys):
    words = ['--data_dir', str(data_dir), '--sets']
    assert audit.main([*words, 'a', '--strict']) == 3
    for mistake in (['a,c'], ['a,a'], ['a', '--size', '32'], ['a', '--json', f'{tmp_path}/no/x']):
        assert audit.main([*words, *mistake]) == 2
        assert capsys.readouterr().err.strip()


def test_the_card_of_a_set_tells_what_concerns_it_alone(data_dir):
    audit.main(['--data_dir', str(data_dir), '--sets', 'a,b'])
    prepared = open_prepared(data_dir, 'a', SIZE)
    told = prepared.card['audit']
    assert told['pairs'] == told['across_splits'] == {'near': 1} and told['conflicts'] == 1
    page = (prepared.directory / 'card.md').read_text()
    assert '- 1 pairs of near copies lie in two splits.' in page
    assert open_prepared(data_dir, 'b', SIZE).card['audit']['reasons']['nearly constant'] == 1


def test_held_out_copies_are_told_from_what_preparing_stored(data_dir):
    one, two = (open_prepared(data_dir, name, SIZE) for name in 'ab')
    found = overlap(two.corpus(), one.corpus('validation'))
    assert (len(found.held_out), len(found.trained)) == (1, 1)  # b1 of a5
    found = overlap(one.corpus('train'), one.corpus('test'))
    assert (len(found.held_out), len(found.trained)) == (1, 1)  # a1 of a7


def test_looks_are_made_anew_where_those_stored_are_missing_or_of_other_pixels(data_dir):
    prepared = open_prepared(data_dir, 'b', SIZE)
    first = stored_looks(prepared)
    path = prepared.directory / LOOKS_FILE
    for spoil in (path.unlink, lambda: path.write_bytes(b'PK'),
                  lambda: np.savez(path, looks=first.looks, measures=first.measures, of='other')):
        spoil()
        assert stored_looks(prepared) is None
        again = looks_of(prepared)
        np.testing.assert_array_equal(again.looks, first.looks)
        np.testing.assert_array_equal(again.measures, first.measures)
        assert stored_looks(prepared) is not None


def test_one_person_has_one_pseudonym_in_all_sets_of_a_folder(data_dir):
    one, two = (open_prepared(data_dir, name, SIZE).index for name in 'ab')
    shared = set(one.patient) & set(two.patient)
    assert len(shared) == 1 and not {'a3', 'b2'} & shared
