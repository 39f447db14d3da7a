"""Keys: what is active is in them, what does nothing is not."""

import dataclasses
import hashlib
import json

import pytest

from cxr_jax.store.identity import FORMAT, active, differences, key_of, plain
from cxr_jax.store.settings import derived, setting


@dataclasses.dataclass(frozen=True)
class Section:
    on: bool = setting(False, neutral=False)
    strength: float = 2.0

    def inactive(self):
        return set() if self.on else {'strength'}


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    where: str = setting('here', result=False)
    clip: float = setting(0.0, neutral=0.0)
    span: tuple[float, float] = (0.2, 1.0)
    found: int = derived(0)
    section: Section = Section()
    quiet: Section = setting(Section(on=True), result=False)


def test_active_fields_are_those_that_do_something():
    assert active(Settings()) == {'rate': 0.1, 'span': [0.2, 1.0]}
    on = Settings(clip=1.0, section=Section(on=True))
    assert active(on) == {
        'rate': 0.1, 'span': [0.2, 1.0], 'clip': 1.0, 'section': {'on': True, 'strength': 2.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    'change',
    [
        {'where': 'there'},
        {'found': 5},
        {'section': Section(strength=3.0)},
        {'quiet': Section()},
    ],
)
def test_what_does_nothing_changes_no_key(change):
    assert key_of(active(Settings())) == key_of(active(Settings(**change)))


@pytest.mark.parametrize(
    'change',
    [
        {'rate': 0.2},
        {'clip': 1e-9},
        {'span': (0.3, 1.0)},
        {'section': Section(on=True)},
    ],
)
def test_what_does_something_changes_the_key(change):
    assert key_of(active(Settings())) != key_of(active(Settings(**change)))


def test_a_field_that_is_not_neutral_at_its_default_is_in_the_key():
    """Otherwise a default could be changed later, and old stages would be taken for new ones."""

    @dataclasses.dataclass(frozen=True)
    class More(Settings):
        flip: float = setting(0.5, neutral=0.0)

    assert active(More()) == active(Settings()) | {'flip': 0.5}
    assert active(More(flip=0.0)) == active(Settings())


def test_a_key_is_the_hash_of_canonical_json():
    content = {'b': [1, 2.5], 'a': {'y': None, 'x': 'é'}}
    text = '{"a":{"x":"\\u00e9","y":null},"b":[1,2.5],"format":' + f'{FORMAT}}}'
    assert key_of(content) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert key_of(dict(reversed(content.items()))) == key_of(content)
    with pytest.raises(ValueError, match='JSON'):
        key_of({'lr': float('nan')})


def test_plain_is_what_json_gives_back():
    tree = {'a': (1, (2.5, 'x')), 'b': {'c': [()]}, 'd': None}
    assert plain(tree) == json.loads(json.dumps(tree)) == {
        'a': [1, [2.5, 'x']], 'b': {'c': [[]]}, 'd': None,
    }  # fmt: skip


def test_differences_are_told_field_by_field():
    before = {'seed': 0, 'stage': {'moco': {'lr': 0.1, 'epochs': 2}}, 'gone': [1]}
    now = {'seed': 0, 'stage': {'moco': {'lr': 0.2, 'epochs': 2}}, 'new': 'x'}
    assert differences(before, now) == (
        "  gone: [1], None\n  new: None, 'x'\n  stage.moco.lr: 0.1, 0.2"
    )
    assert differences(now, now) == ''
