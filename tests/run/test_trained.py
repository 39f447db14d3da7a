"""A readout out of its bundle: the predictions of the run that trained it, on any fitting set."""

import dataclasses

import numpy as np
import pytest

from cxr_jax.evaluation.predict import predict
from cxr_jax.run.trained import load_readout
from cxr_jax.store.bundle import OWN, read_description, read_parts, write_bundle
from cxr_jax.store.identity import active, restored
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.classify import Classify
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from tests import tiny


@pytest.fixture(scope='module')
def trained(undisturbed):
    """(Stage, its Outcome, the readout out of its folder)."""
    stage, outcome, directory = undisturbed('classify')
    return stage, outcome, load_readout(directory.finished)


def test_it_predicts_what_the_run_predicts(trained, tiny_data):
    stage, outcome, readout = trained
    corpus = tiny_data.corpus('test')
    labels, mesh = readout.target.values(corpus), tiny.one_device()
    expected = predict(stage.task, stage.encoder, outcome.parts, corpus, labels, mesh, 8).table()
    found = readout.predict(corpus, mesh, 8).table()
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)
    assert np.ptp(found['scores'], axis=0).max() > 0
    # The set's own names and numbers: what is said of the images is not of the run.
    assert readout.target.names == tiny_data.names
    np.testing.assert_array_equal(found['labels'], corpus.column('labels').argmax(1))


def test_a_set_of_another_size_is_refused_with_what_to_do(trained, tmp_path):
    other = prepare('synthetic_cxr', None, tmp_path, 32, images=24, processes=1)
    with pytest.raises(UserError, match=r'40 px and 8 bits.*32 px.*--size 40 --bits 8'):
        trained[2].predict(other.corpus('test'), tiny.one_device(), 8)


def test_images_without_the_masks_that_its_region_needs_are_refused(trained, tiny_data):
    readout = trained[2]
    contract = dataclasses.replace(readout.encoder.contract, region='lungs_black')
    encoder = dataclasses.replace(readout.encoder, contract=contract)
    nowhere = np.zeros(len(tiny_data.index), bool)
    data = dataclasses.replace(
        tiny_data, index=dataclasses.replace(tiny_data.index, has_mask=nowhere)
    )
    with pytest.raises(UserError, match=r'region lungs_black.*without a lung mask'):
        dataclasses.replace(readout, encoder=encoder).predict(
            data.corpus('test'), tiny.one_device(), 8
        )


def test_a_bundle_that_predicts_nothing_is_refused(tmp_path):
    write_bundle(tmp_path, {}, {'task': 'rot'})
    with pytest.raises(UserError, match='a stage of rot, which predicts nothing'):
        load_readout(tmp_path)


def test_parts_of_another_shape_are_refused(trained, tmp_path):
    """A bundle whose target has a name less than its head has outputs."""
    folder = trained[2].folder
    told = {k: v for k, v in read_description(folder).items() if k not in OWN}
    write_bundle(tmp_path, read_parts(folder), told | {'target': told['target'][1:]})
    with pytest.raises(UserError, match=r'readout in .* does not fit.*\n.*head/params/linear/bias'):
        load_readout(tmp_path)


def test_settings_come_back_from_what_a_key_is_made_of():
    """A neutral field is left out there, also where it is not the default."""
    plain = Classify(image_size=64, augment=Augmentation(flip=0.0, crop_scale=(0.5, 1.0)))
    assert 'flip' not in active(plain)['augment'] and Augmentation().flip != 0
    for task in (plain, Classify(), *(task() for task in TASKS.values())):
        assert restored(type(task)(), active(task), 'x') == task
    with pytest.raises(UserError, match='x was written by another version.*no later'):
        restored(Classify(), active(plain) | {'later': 1}, 'x')
