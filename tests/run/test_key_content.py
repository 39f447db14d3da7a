"""A stage's key changes with all that determines its result, and with nothing else."""

import dataclasses
import json

import numpy as np
import pytest

from cxr_jax.run import plan
from cxr_jax.run.corpora import open_sets
from tests import tiny


def keys(data, **changes):
    return [each.key for each in tiny.make_stages(data, 'rot_moco', **changes).values()]


# What is changed, and the first of the three stages that gets another key.
CHANGES = {
    'seed': ({'seed': 1}, 0),
    'region': ({'data.region': 'lungs_black'}, 0),
    'images': ({'data.pretext_fraction': 0.5}, 0),
    'width': ({'encoder.width': 16}, 0),
    'channels': ({'encoder.channels': 3}, 0),
    'rate of stage 1': ({'stage.rot.optimizer.lr': 0.0123}, 0),
    'field of stage 1': ({'stage.rot.task.augment.rotation': 5.5}, 0),
    'search of stage 1': ({'stage.rot.search.protocol': 'thesis', 'stage.rot.search.epochs': 1}, 0),
    'temperature of stage 2': ({'stage.moco.task.temperature': 0.123}, 1),
    'epochs of stage 2': ({'stage.moco.epochs': 3}, 1),
    'images of stage 2': ({'stage.moco.data.fraction': 0.5}, 1),
    'sampling of stage 2': ({'stage.moco.data.balance': 'patient'}, 1),
    'batch size of stage 3': ({'stage.classify.batch_size': 16}, 2),
    'labels': ({'data.label_fraction': 0.5}, 2),
    'classes': ({'data.classes': ('negative', 'typical')}, 2),
    'checkpoints': ({'stage.rot.checkpoint_epochs': 0.25}, 3),
    'store': ({'store': 'elsewhere', 'keep': 'bundle'}, 3),
    'where images live': ({'data.on_device': 0.5}, 3),
    'what is computed again': ({'encoder.remat': True}, 3),
    'monitors': ({'monitor.health_looks': 7, 'monitor.probe_epochs': 1}, 3),
    'evaluation': ({'eval.batch_size': 7, 'eval.resamples': 5}, 3),
    'a search that is off': ({'stage.rot.search.low': 0.02, 'stage.rot.search.count': 3}, 3),
    'trust under SGD': ({'stage.rot.optimizer.trust': 0.5}, 3),
}


@pytest.mark.parametrize('what', CHANGES)
def test_a_key_is_of_all_that_determines_the_result(what, tiny_data):
    """The stages from number `first` on get other keys, those before keep theirs."""
    changes, first = CHANGES[what]
    before, after = keys(tiny_data), keys(tiny_data, **changes)
    assert [a == b for a, b in zip(before, after, strict=True)] == [n < first for n in range(3)]


def keys_of_set(data, **changes):
    """Keys of a run on the same prepared set with `changes` in its index, or in itself."""
    config = tiny.make_config(data, 'rot_moco')
    (name, prepared), = open_sets(config).items()
    columns = {k: v for k, v in changes.items() if hasattr(prepared.index, k)}
    own = {k: v for k, v in changes.items() if k not in columns}
    index = dataclasses.replace(prepared.index, **columns)
    changed = dataclasses.replace(prepared, index=index, **own)
    return [each.key for each in plan.make_plan(config, {name: changed}, 1).stages]


def changed_at(values, place, value):
    values = values.copy()
    values[place] = value
    return values


def test_a_key_is_of_images_labels_and_parents(tiny_data):
    expected, index = keys(tiny_data), tiny_data.index
    place = np.flatnonzero(index.split == 'train')[0]
    assert keys_of_set(tiny_data) == expected
    pixels = changed_at(index.content, place, '0' * 32)
    assert not set(keys_of_set(tiny_data, content=pixels)) & set(expected)
    # What no stage sees: its folder's hash, its sources, pseudonyms.
    same = {'fingerprint': '0' * 64, 'source': np.full(len(index), 'elsewhere')}
    assert keys_of_set(tiny_data, **same) == expected
    # Of the labels, the readout alone.
    labels = changed_at(index.labels, place, np.roll(index.labels[place], 1))
    relabelled = keys_of_set(tiny_data, labels=labels)
    assert relabelled[:2] == expected[:2] and relabelled[2] != expected[2]
    alone = tiny.make_stages(tiny_data, 'moco')['moco'].key
    assert alone not in expected
    content = json.loads(json.dumps(tiny.make_stages(tiny_data, 'rot_moco')['moco'].content))
    assert content['parent'] == expected[0]


def test_a_key_is_of_what_a_weights_file_holds(tiny_data, tmp_path):
    """Wherever it lies; later stages have it through their parents."""
    paths = [tmp_path / name for name in ('a', 'b', 'c')]
    for path, text in zip(paths, ('one', 'one', 'two'), strict=True):
        path.write_text(text)
    first, moved, other = (keys(tiny_data, **{'encoder.weights': str(path)}) for path in paths)
    assert first == moved
    assert not {*first} & {*other} and not {*first} & {*keys(tiny_data)}
