"""What a run tells of its images: near copies of held-out ones, and what the cards say."""

from types import SimpleNamespace

import numpy as np

from cxr_jax.report.cautions import cautions
from cxr_jax.run.audited import audit_of
from cxr_jax.run.corpora import Splits
from data_pipelines.auditing import overlap
from data_pipelines.auditing.looks import SIDE, content_box, look_at
from data_pipelines.auditing.stored import Looks, save_looks
from tests.auditing.test_near import film, prepared
from tests.prepared.made_up import made_up_set


def stored_set(folder, name, films, card=None, **columns):
    """A set in memory whose looks lie on disk, with the spread of films (the first measure)."""
    made = made_up_set(name, len(films), salt=str(folder), **columns)
    directory = folder / name
    directory.mkdir()
    looks = np.stack([look_at(x, content_box(x)) for x in films]).reshape(-1, SIDE, SIDE)
    measures = np.full((len(films), 7), 0.5, np.float32)
    save_looks(directory, Looks(looks, measures), name)
    object.__setattr__(made, 'directory', directory)
    made.card.update(card or {})
    return made


def plan_of(own, others):
    splits = Splits(*(own.corpus(name) for name in ('train', 'validation', 'test')))
    stages = [SimpleNamespace(train=SimpleNamespace(corpus=each.corpus())) for each in others]
    return SimpleNamespace(
        branches=[SimpleNamespace(stages=stages)],
        data=SimpleNamespace(splits=(splits,), sets={s.name: s for s in (own, *others)}),
    )


def test_copies_of_held_out_images_and_the_cards_are_told(tmp_path):
    films = [film(k, 96) for k in range(12)]
    split = ['train'] * 4 + ['validation'] * 2 + ['test'] * 2
    own = stored_set(tmp_path, 'own', [prepared(x) for x in films[:8]], split=split)
    # Two copies of the test image 6, one of 5 (for validation), one of 1 (to train on).
    copies = [films[6] ** 0.6, films[6][:, ::-1], films[5] ** 1.5, films[1] ** 0.6]
    found = {'reasons': {'lateral': 3}, 'pairs': {}, 'across_splits': {}, 'conflicts': 0}
    pretext = stored_set(
        tmp_path, 'pretext', [prepared(x) for x in (*films[8:], *copies)], {'audit': found}
    )
    told = audit_of(plan_of(own, [pretext]))
    assert told[0].startswith(
        '2 of 4 validation and test images have near copies (3) among the images trained on'
    )
    assert told[1:] == ['pretext: Of 8 images these look wrong: lateral 3.']
    results = {'banner': '', 'data': {'has_patient_ids': True, 'audit': told}, 'stages': [],
               'test': None, 'attention': None}  # fmt: skip
    assert [text.removeprefix('Audit of the data: ') for text in cautions(results)] == told
    # What could not be looked at is told.
    (tmp_path / 'pretext' / 'looks.npz').unlink()
    overlap._overlap.cache_clear()
    pretext.card.pop('audit')
    [unseen] = audit_of(plan_of(own, [pretext]))
    assert unseen.startswith('Near copies were not looked for in pretext')
