"""Targets: labels by name over several sets, policies for uncertain ones, strata, counts."""

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import union
from data_pipelines.prepared.target import Target, target_of
from tests.prepared.made_up import made_up_set

CLASSES = ('well', 'ill', 'odd')
FINDINGS = ('Mass', 'Effusion', 'Hernia')


def classes(labels, name='classes', names=CLASSES):
    """An exclusive set of these class numbers; None = not labelled."""
    rows = [[-2] * 3 if k is None else [int(k == j) for j in range(3)] for k in labels]
    return made_up_set(name, names=names, labels=np.array(rows, np.int8))


def findings(rows, name='findings', names=FINDINGS):
    return made_up_set(name, names=names, exclusive=False, labels=np.array(rows, np.int8))


def test_classes_are_numbered_in_the_order_of_the_target():
    prepared = classes([0, 2, 1, None, 0])
    corpus = prepared.corpus()
    whole = target_of(prepared)
    assert whole == Target(CLASSES, True) and whole.values(corpus).dtype == np.int32
    assert whole.values(corpus).tolist() == [0, 2, 1, -1, 0]
    assert whole.counts(corpus) == [2, 1, 1]
    assert whole.balance(corpus) == ((2, 2), (3, 1), (3, 1))
    chosen = target_of(prepared, ('odd', 'well'))
    assert chosen.values(corpus).tolist() == [1, 0, -1, -1, 1] == chosen.strata(corpus).tolist()
    assert chosen.counts(corpus) == [1, 2]
    kept = chosen.labelled(corpus)
    assert kept.parts[0][1].tolist() == [0, 1, 4] and chosen.values(kept).tolist() == [1, 0, 1]


def test_findings_keep_what_is_not_known_apart_from_what_is_not_there():
    rows = [[1, 0, -1], [-1, -1, -2], [0, 0, 0], [-2, -2, -2], [1, 1, 0]]
    prepared = findings(rows)
    corpus = prepared.corpus()
    expected = {
        'ignore': [[1, 0, -1], [-1, -1, -1], [0, 0, 0], [-1, -1, -1], [1, 1, 0]],
        'positive': [[1, 0, 1], [1, 1, -1], [0, 0, 0], [-1, -1, -1], [1, 1, 0]],
        'negative': [[1, 0, 0], [0, 0, -1], [0, 0, 0], [-1, -1, -1], [1, 1, 0]],
    }
    for policy, values in expected.items():
        target = target_of(prepared, uncertain=policy)
        assert target.values(corpus).tolist() == values
        known = [k for k, row in enumerate(values) if max(row) > -1 or min(row) > -1]
        assert target.labelled(corpus).parts[0][1].tolist() == known
        assert target.counts(corpus) == (np.array(values) == 1).sum(0).tolist()
        absent = (np.array(values) == 0).sum(0).tolist()
        assert target.balance(corpus) == tuple(zip(absent, target.counts(corpus), strict=True))
    one = target_of(prepared, ('Hernia',))
    assert one.values(corpus).tolist() == [[-1], [-1], [0], [-1], [0]]


def test_names_are_found_by_name_in_every_set():
    first = findings([[1, 0, -1]])
    second = findings([[1, 0, 0], [0, 1, 1]], 'second', ('Effusion', 'Fracture', 'Mass'))
    third = classes([1, 0], 'third', ('none', 'Mass', 'other'))
    unlabelled = made_up_set('unlabelled', 2)
    corpus = union(p.corpus() for p in (first, second, third, unlabelled))
    values = target_of(first).values(corpus)
    assert values.tolist() == [
        [1, 0, -1], [0, 1, -1], [1, 0, -1], [1, -1, -1], [0, -1, -1], [-1] * 3, [-1] * 3,
    ]  # fmt: skip
    # Of a multi-label set an exclusive target takes the images that show exactly one name.
    assert Target(('Mass', 'Effusion'), True).values(corpus).tolist() == [0, 1, 0, 0, -1, -1, -1]


def test_strata_are_the_rarest_positive_finding():
    rng = np.random.default_rng(3)
    rows = (rng.random((40, 3)) < (0.6, 0.3, 0.1)).astype(np.int8)
    rows[rng.random((40, 3)) < 0.2] = -1
    prepared = findings(rows)
    counts = [(rows[:, k] == 1).sum() for k in range(3)]
    assert len(set(counts)) == 3
    expected = [
        min((k for k in range(3) if row[k] == 1), key=lambda k: counts[k], default=-1)
        for row in rows
    ]
    strata = target_of(prepared).strata(prepared.corpus())
    assert strata.tolist() == expected and set(expected) == {-1, 0, 1, 2}


def test_the_fingerprint_follows_what_is_learnt_from():
    rows = [[1, 0, 1], [0, 1, 0]]
    plain = target_of(findings(rows))

    def of(rows, target=plain, name='x'):
        return target.fingerprint(findings(rows, name).corpus())

    assert of(rows) == of(rows, name='another')
    others = [
        of([[1, 0, 1], [0, 1, -1]]), of(rows[::-1]),
        of(rows, Target(FINDINGS, False, 'positive')), of(rows, Target(FINDINGS[::-1], False)),
        of(rows, Target(('mass', *FINDINGS[1:]), False)), of(rows, Target(FINDINGS, True)),
    ]  # fmt: skip
    assert len({of(rows), *others}) == 7


@pytest.mark.parametrize(
    ('names', 'word'),
    [(('well', 'sick'), 'sick'), (('well', 'ill', 'well'), 'well'), (('well',), 'alone')],
)
def test_impossible_choices_are_told(names, word):
    with pytest.raises(UserError, match=word):
        target_of(classes([0, 1]), names)


def test_sets_without_labels_and_unknown_policies_are_told():
    with pytest.raises(UserError, match='has no labels'):
        target_of(made_up_set(n=2))
    with pytest.raises(UserError, match="'maybe'.*ignore"):
        target_of(findings([[1, 0, 0]]), uncertain='maybe')
    assert target_of(findings([[1, 0, 0]]), ('Mass',)).names == ('Mass',)
