"""Which images each stage of a run reads, and that none of them is of a patient who is tested."""

import hashlib

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import LeftOut
from data_pipelines.prepared.loader import train_batches
from data_pipelines.prepared.sampler import Sampler
from tests import small_sets, tiny
from tests.bare_sets import write_bare

FEW = {'stage.classify.batch_size': 2}


def contents(names, folder) -> list[str]:
    """What the index says of these raw files, which are as large as the prepared images."""
    return sorted(
        hashlib.sha256(small_sets.pixels_of(folder / name).tobytes()).hexdigest()[:32]
        for name in names
    )


def read_by(stage) -> list[str]:
    return sorted(stage.train.corpus.column('content').tolist())


def planned(data, tasks, readout='classify', **changes):
    return tiny.make_plan(data, tasks, readout, **changes)


def pixels(corpus) -> np.ndarray:
    """[N, R, R] in [0, 1]."""
    images = [part.read(rows, ('image',)) for part, rows in corpus.parts]
    return np.stack([r['image'][..., 0] for records in images for r in records]) / 255


@pytest.mark.parametrize(
    'named',
    [
        {'stage.moco.data.sets': ('a',), 'stage.rot.data.sets': ('b',)},
        {'data.pretext': ('b',), 'stage.moco.data.sets': ('a',)},
    ],
)
def test_stages_read_the_sets_they_name_but_for_held_out_patients_and_copies(sets, named):
    plan = planned(sets['c'], 'moco_rot', **named)
    for stage, name in zip(plan.stages, 'ab', strict=False):
        same_patient, same_content = small_sets.PLANTED[name]
        assert stage.left_out == LeftOut(same_patient + same_content, same_patient, same_content)
        folder = small_sets.raw_folder(sets[name])
        kept = [p.name for p in folder.glob('*.png') if p.name not in small_sets.HELD_OUT]
        assert read_by(stage) == contents(kept, folder)
    assert plan.stages[-1].left_out == LeftOut()


def test_pretext_stages_read_all_training_images_and_readouts_the_labelled_ones(sets):
    """Partly labelled sets train: what has no label is no reason to refuse them."""
    moco, classify = planned(sets['c'], 'moco').stages
    folder = small_sets.raw_folder(sets['c'])
    trained = [f'c{patient}-{view}.png' for patient in range(42) for view in range(2)]
    labelled = [name for name in trained if int(name[1:].split('-')[0]) % 6 != 5]
    assert (len(trained), len(labelled)) == (84, 70)
    assert read_by(moco) == contents(trained, folder) and moco.train.labels is None
    assert read_by(classify) == contents(labelled, folder)
    assert np.bincount(classify.train.labels).tolist() == [42, 28]


def test_the_own_set_among_others_gives_its_training_images_alone(sets):
    both, _ = planned(sets['c'], 'moco', **{'data.pretext': ('a', 'c')}).stages
    alone = [planned(sets['c'], 'moco', **{'data.pretext': (n,)}).stages[0] for n in 'ac']
    assert read_by(both) == sorted(read_by(alone[0]) + read_by(alone[1]))
    assert len(read_by(alone[1])) == 84


def test_a_share_of_the_labels_is_of_patients_of_every_class_and_nested(sets):
    whole = planned(sets['c'], 'scratch').stages[0].train
    before = set(whole.corpus.column('image_id'))
    for share, patients in ((0.5, [11, 7]), (0.1, [2, 1])):
        part = planned(sets['c'], 'scratch', **FEW, **{'data.label_fraction': share}).stages[0]
        for label in (0, 1):
            of_class = part.train.corpus.groups[part.train.labels == label]
            names, images = np.unique(of_class, return_counts=True)
            assert len(names) == patients[label] and set(images) == {2}  # nobody is torn apart
        now = set(part.train.corpus.column('image_id'))
        assert now < before
        before = now
    seeds = [planned(sets['c'], 'scratch', **FEW, seed=seed, **{'data.label_fraction': 0.5})
             for seed in (0, 1)]  # fmt: skip
    assert read_by(seeds[0].stages[0]) != read_by(seeds[1].stages[0])


def test_shares_of_a_run_and_of_a_stage_multiply(sets):
    changes = {'data.pretext': ('b',), 'data.pretext_fraction': 0.8, 'stage.rot.batch_size': 4}
    whole, _ = planned(sets['c'], 'rot', **changes).stages
    half, classify = planned(
        sets['c'], 'rot', **changes, **FEW,
        **{'stage.rot.data.fraction': 0.5, 'stage.classify.data.fraction': 0.5},
    ).stages  # fmt: skip
    assert (whole.train.images, half.train.images) == (14, 7)  # of 17
    assert set(read_by(half)) < set(read_by(whole))
    assert classify.train.images == 36  # of 35 patients 10.5 and 7


@pytest.mark.parametrize('region', ['full', 'lungs_gray'])
def test_the_encoder_sees_what_the_first_stage_read(sets, region):
    """Mean, deviation and the grey around the lungs: of the images that it was trained on, not of
    its set, and not of the set that it is read out on."""
    changes = {'data.region': region, 'data.pretext': ('a',), 'data.pretext_fraction': 0.5}
    rot, classify = planned(sets['c'], 'rot', **changes).stages
    seen = pixels(rot.train.corpus)
    fill = seen.mean()
    if region == 'lungs_gray':
        [(prepared, rows)] = rot.train.corpus.parts
        masks = np.stack([r['lung_mask'][..., 0] for r in prepared.read(rows, ('lung_mask',))])
        seen = np.where(masks > 0, seen, fill)
    contract = rot.encoder.contract
    assert contract.fill == pytest.approx(fill)
    assert (contract.mean, contract.std) == (pytest.approx(seen.mean()), pytest.approx(seen.std()))
    assert abs(fill - pixels(sets['c'].corpus()).mean()) > 0.1
    assert classify.encoder.contract == contract


def test_a_readout_from_scratch_sees_alike_whatever_its_share_of_labels(sets):
    of_share = [
        planned(sets['c'], 'scratch', **FEW, **{'data.label_fraction': share}).stages[0]
        for share in (1.0, 0.1)
    ]
    assert of_share[0].encoder.contract == of_share[1].encoder.contract
    mean = pixels(sets['c'].corpus('train')).mean()
    assert of_share[0].encoder.contract.mean == pytest.approx(mean)


def test_chosen_classes_are_numbered_in_their_order(tiny_data):
    names = ('typical', 'negative')
    plan = planned(tiny_data, 'rot', **{'data.classes': names})
    rot, classify = plan.stages
    said = tiny_data.index.labels  # columns: negative, typical, ...
    for labelled, split in ((classify.train, 'train'), (plan.branches[0].tested, 'test')):
        rows = np.flatnonzero((tiny_data.index.split == split) & (said[:, :2] == 1).any(1))
        np.testing.assert_array_equal(labelled.corpus.parts[0][1], rows)
        np.testing.assert_array_equal(labelled.labels, said[rows, 0])
    assert classify.facts.names == names and rot.train.images == 34
    swapped = planned(tiny_data, 'scratch', **{'data.classes': names[::-1]}).stages[0]
    np.testing.assert_array_equal(swapped.train.labels, 1 - classify.train.labels)
    assert swapped.key != planned(tiny_data, 'scratch', **{'data.classes': names}).stages[0].key
    batch = next(train_batches(
        classify.train.corpus, Sampler(classify.train.corpus, classify.train.images, 3),
        fields=('image', 'label'), labels=classify.train.labels,
    ))  # fmt: skip
    allowed = {image.tobytes() for image in pixels(classify.train.corpus)}
    assert {image.tobytes() for image in batch['image'][..., 0] / 255} == allowed
    assert set(batch['label'].tolist()) == {0, 1}


@pytest.mark.parametrize('names', [('left',), ('left', 'left'), ('left', 'up')])
def test_classes_that_cannot_be_chosen(names, sets):
    with pytest.raises(UserError, match='left, right'):
        planned(sets['c'], 'scratch', **{'data.classes': names})


def test_findings_keep_what_is_not_known(sets):
    [stage] = planned(sets['f'], 'scratch', 'findings').stages
    assert stage.train.images == 23  # of f7 nothing is said
    known = stage.train.labels
    assert known.shape == (23, 2)
    # Of f0 .. f23: 3, 11, 19 uncertain of the first; 6, 14, 22 without the second.
    assert (known == -1).sum(0).tolist() == [3, 3]
    assert (known == 1).sum(0).tolist() == [8, 8]
    positive = planned(sets['f'], 'scratch', 'findings', **{'data.uncertain': 'positive'}).stages[0]
    assert (positive.train.labels == 1).sum(0).tolist() == [11, 8]
    assert positive.key != stage.key


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'data.pretext': ('deep',)}, ['bare', '16 bits', '8 bits']),
        ({'stage.rot.data.sets': ('deep',)}, ['deep', '16 bits', '8 bits']),
        ({'stage.rot.data.balance': 'class'}, ['stage.rot.data.balance=class', 'labels']),
        ({'data.region': 'lungs_black'}, ['lungs_black needs a lung mask']),
        ({'data.pretext': ('bare',), 'data.classes': ('up', 'negative')}, ['up']),
        ({'data.pretext': ('missing',)}, ['missing', 'bare (40), deep (40)']),
    ],
)
def test_sets_that_do_not_suit_are_refused_before_training(changes, words, tmp_path):
    bare = write_bare(tmp_path, 'bare', 40, has_mask=False)
    write_bare(tmp_path, 'deep', 40, bits=16)
    with pytest.raises(UserError) as refused:
        planned(bare, 'moco_rot', **changes)
    for word in words:
        assert word in str(refused.value)


def test_all_training_images_held_out_is_an_error(sets, tmp_path):
    """Such as a copy of the test images as the corpus to pretrain on."""
    bare = write_bare(tmp_path, 'bare', 40)
    held = {'train': 160, 'validation': 0, 'test': 0}
    write_bare(tmp_path, 'copy', 40, held, copied='bare', first=640)
    with pytest.raises(UserError, match=r'No image is left for stage moco .*160 were left out'):
        planned(bare, 'moco', **{'data.pretext': ('copy',)})
