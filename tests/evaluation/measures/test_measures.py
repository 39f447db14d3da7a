"""Which measures there are, and one value of each without a bootstrap."""

import json

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.measures.base import NAME, SET
from tests.evaluation.made_up import findings_table, made_up_table

TABLES = {True: made_up_table(k=3), False: findings_table()}


@pytest.mark.parametrize('exclusive', [True, False])
def test_values_are_those_of_the_figures(exclusive):
    result = measures.evaluate(TABLES[exclusive], 'abc', exclusive, resamples=5)
    json.dumps(result, allow_nan=False)
    assert result['figures'].keys() == {m.name for m in measures.of(exclusive, SET)}
    for name, row in result['figures'].items():
        found = measures.value(measures.named(name), TABLES[exclusive], 'abc', exclusive)
        assert found == row['figure']['value']
    for row in result['per_name']:
        assert row['figures'].keys() == result['name_measures'].keys()
    assert result['name_measures'].keys() == {m.name for m in measures.of(exclusive, NAME)}


def test_headlines():
    assert measures.headline(True).name == 'balanced_accuracy'
    assert measures.headline(False).name == 'macro_auc'
    assert measures.headline(True) is measures.named('balanced_accuracy')
    with pytest.raises(ValueError, match="no measure 'accuray'; there are balanced_accuracy"):
        measures.named('accuray')


@pytest.mark.parametrize('exclusive', [True, False])
def test_a_score_that_is_not_finite_has_no_value(exclusive):
    table = TABLES[exclusive] | {'scores': TABLES[exclusive]['scores'].copy()}
    table['scores'][0, 0] = np.inf
    assert np.isnan(measures.value(measures.headline(exclusive), table, 'abc', exclusive))


@pytest.mark.parametrize('exclusive', [True, False])
def test_figures_do_not_depend_on_the_order_of_the_images(exclusive):
    table = TABLES[exclusive]
    order = np.random.default_rng(0).permutation(len(table['labels']))
    moved = {name: x[order] for name, x in table.items()}
    before, after = (measures.evaluate(t, 'abc', exclusive, resamples=60) for t in (table, moved))
    for name, row in before['figures'].items():
        for key in ('value', 'low', 'high'):
            assert after['figures'][name]['figure'][key] == pytest.approx(row['figure'][key])
