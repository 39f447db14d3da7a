"""What a stage is judged by while it trains, and which program each of its trials has."""

import numpy as np
import pytest

from cxr_jax.evaluation import predict
from cxr_jax.evaluation.measures import classification
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import validation
from data_pipelines.prepared import loader
from tests import tiny


@pytest.fixture(scope='module')
def untrained(tiny_data):
    """(classifier's Stage, its Programs, its state at step 0)."""
    each = tiny.make_stages(tiny_data, 'scratch')['classify']
    parent = tiny.fresh_parts(each.encoder)
    with tiny.compiled_once():
        programs = validation.Programs(parent, tiny.one_device())
        return each, programs, programs.of(each).create(parent, 0.1)


def test_a_classifier_is_judged_by_its_headline(untrained):
    """Mean recall of its classes, against predict on the validation split."""
    each, programs, state = untrained
    value, data = programs.validator(each)(state), each.validation
    found = predict.predict(each.task, each.encoder, state.parts, data.corpus, data.labels,
                            tiny.one_device(), 5)  # fmt: skip
    predicted = found.scores.argmax(1)
    recall = [np.mean(predicted[found.labels == k] == k) for k in np.unique(found.labels)]
    assert value == pytest.approx(np.mean(recall), rel=1e-6)
    assert validation.judged_by(each) == (classification.BALANCED_ACCURACY.name, True)


@pytest.mark.parametrize('region', ['full', 'lungs_black'])
def test_a_classifier_is_judged_without_maps(region, tiny_data, untrained, monkeypatch):
    """None is computed, and lung masks are read where the region needs them alone."""
    each = tiny.make_stages(tiny_data, 'scratch', **{'data.region': region})['classify']
    _, _, state = untrained
    eval_batches, read = loader.eval_batches, []

    def reading(*arguments, **names):
        for batch in eval_batches(*arguments, **names):
            read.append('lung_mask' in batch)
            yield batch

    monkeypatch.setattr(predict, 'class_activation_map', None)
    monkeypatch.setattr(loader, 'eval_batches', reading)
    predict._compiled.cache_clear()
    value = validation.make_validator(each, tiny.one_device())(state)
    assert 0 <= value <= 1
    assert read and set(read) == {region != 'full'}
    with pytest.raises(TypeError):  # where maps are wanted they are computed
        predict.predict(each.task, each.encoder, state.parts, each.validation.corpus,
                        each.validation.labels, tiny.one_device(), 8)  # fmt: skip
    predict._compiled.cache_clear()


def sampled_for_as_many_steps(name):
    """A search on images for half of the steps an epoch, for twice the epochs; a warm-up."""
    search = {
        'protocol': 'sampled', 'count': 1, 'fraction': 0.6, 'epochs': 4, 'low': 0.01, 'high': 0.05
    }  # fmt: skip
    changes = {f'stage.{name}.search.{field}': value for field, value in search.items()}
    return changes | {f'stage.{name}.optimizer.warmup_epochs': 1.0}


def test_a_trial_that_takes_as_many_steps_has_another_program(tiny_data):
    """The final training's queue is of all images, though it has the trial's number of steps."""
    changes = sampled_for_as_many_steps('moco') | {
        'stage.moco.task.queue_size': 'auto', 'stage.moco.task.key_groups': 1
    }  # fmt: skip
    each = tiny.make_stages(tiny_data, 'moco', **changes)['moco']
    (trial,), (final,) = each.search.trials, each.search.winners
    assert trial.total_steps == final.total_steps == tiny.STEPS
    assert trial.facts.batch_size == final.facts.batch_size
    programs = validation.Programs(tiny.fresh_parts(each.encoder), tiny.one_device())
    queues = [programs.of(stage).like.extra['queue'] for stage in (trial, final)]
    assert [len(queue) for queue in queues] == [16, 32]
    assert programs.of(trial) is programs.of(trial)


def test_a_stage_after_a_trial_that_took_as_many_steps(tiny_data, tmp_path):
    """Its epochs are those of all images: whole state, log and warm-up of a plain run."""
    changes = sampled_for_as_many_steps('classify')
    each = tiny.make_stages(tiny_data, 'scratch', **changes)['classify']
    (trial,), (final,) = each.search.trials, each.search.winners
    assert trial.total_steps == final.total_steps == tiny.STEPS
    assert (trial.facts.steps_per_epoch, final.facts.steps_per_epoch) == (2, 4)
    outcome = tiny.run(each, tmp_path)
    rates = [row['learning_rate'] for row in outcome.metrics]
    assert rates[:4] == pytest.approx([rates[3] * k / 4 for k in (1, 2, 3, 4)])
    plain = {'stage.classify.optimizer.warmup_epochs': 1.0}
    plain |= {'stage.classify.optimizer.lr': outcome.description['learning_rate']}
    plain = tiny.make_stages(tiny_data, 'scratch', **plain)['classify']
    tiny.run(plain, tmp_path)
    directories = [StageDirectory(tmp_path, 'classify', stage.key) for stage in (each, plain)]
    tiny.assert_same_training(*directories)
