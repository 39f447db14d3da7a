"""When alarms go on and off, from made-up looks."""

import pytest

from cxr_jax.evaluation import alarms

HEALTHY = {'std': 0.5, 'centred_rank': 20.0, 'loss': 1.0, 'positive': 0.9, 'negative': 0.8}
FEW = {'entropy': 1.0, 'row_entropy': 0.997}


def judged(changes, total=100, chance=None):
    """'alarms' of rows every 5 steps, each HEALTHY but for its changes."""
    rows = []
    for number, change in enumerate(changes):
        rows.append({'step': 5 * number} | HEALTHY | change)
        rows[-1]['alarms'] = alarms.judge(rows, total, chance)
    return [row['alarms'] for row in rows], rows


@pytest.mark.parametrize(
    ('name', 'bad', 'better'),
    [
        ('constant', {'std': 0.005}, {'std': 0.012}),
        (
            'shrunk',
            {'centred_rank': 3.0, 'std': 0.3, 'positive': 0.82},
            {'centred_rank': 6.0, 'std': 0.3, 'positive': 0.82},
        ),
        ('clusters', FEW, {'entropy': 1.0, 'row_entropy': 0.9935}),
    ],
)
def test_an_alarm_goes_on_and_off_after_two_looks(name, bad, better):
    """Once is nothing; a little above the limit does not end it."""
    good = {'entropy': 1.0, 'row_entropy': 0.5}
    found, rows = judged([good, bad, good, bad, bad, better, better, good, bad, good, good, good])
    on = [number for number, names in enumerate(found) if names]
    assert on == [4, 5, 6, 7, 8, 9] and found[4] == [name]
    assert alarms.spans(rows) == [(name, 20, 50)]


def test_healthy_looks_raise_nothing():
    assert judged([{}] * 20, chance=2.0)[0] == [[]] * 20
    # Parallel features of an untrained encoder; a rank that halves; a loss that rises.
    slow = [{'std': 0.05, 'centred_rank': 20 - k / 2, 'loss': k / 20} for k in range(20)]
    assert judged(slow, chance=2.0)[0] == [[]] * 20
    # Few directions that tell images apart, or that all are used; views that are meant to differ.
    few = [{'centred_rank': 20 / (1 + k), 'std': 0.5 / (1 + k / 10)} for k in range(20)]
    wide = [row | {'positive': 0.8, 'std': 0.5} for row in few]
    for rows in (few, wide, [{'positive': 0.7, 'negative': 0.8}] * 20):
        assert judged(rows)[0] == [[]] * 20
    assert judged([row | {'positive': 0.8} for row in few])[0][19] == ['shrunk']


def test_the_gap():
    """Share by which the squared distance 2 - 2 cos is less."""
    row = {'positive': 0.9, 'negative': 0.6}
    assert alarms.gap(row) == pytest.approx(1 - (2 - 2 * 0.9) / (2 - 2 * 0.6))
    assert alarms.gap({'positive': 1.0, 'negative': 1.0}) == 0


@pytest.mark.parametrize(('chance', 'loss'), [(2.0, 1.995), (0.0, -0.001), (2.0, 2.5)])
def test_a_loss_at_chance_for_half_of_the_stage(chance, loss):
    found, rows = judged([{'loss': loss}] * 20, chance=chance)
    assert [number for number, names in enumerate(found) if names] == list(range(11, 20))
    assert alarms.spans(rows) == [('chance', 55, None)]
    assert not any(judged([{'loss': loss}] * 20)[0])
    falling = [{'loss': loss + (20 - k) / 100} for k in range(20)]
    assert not any(judged(falling, chance=chance)[0])
    rising = [{'loss': loss + k / 100} for k in range(20)]
    assert judged(rising, chance=chance)[0][11:] == [['chance']] * 9
    # It had left the level of chance, and came back.
    left = [{'loss': chance - 1 if number == 8 else loss} for number in range(20)]
    found = judged(left, chance=chance)[0]
    assert [number for number, names in enumerate(found) if names] == [19]


def test_an_alarm_that_is_on_at_the_end():
    collapsed = {'std': 0.0, 'centred_rank': 1.0, 'positive': 1.0, 'negative': 1.0}
    rows = judged([{}] * 10 + [collapsed] * 3)[1]
    assert alarms.spans(rows) == [('constant', 55, None), ('shrunk', 55, None)]
