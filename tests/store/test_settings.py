"""Settings: what a field may hold, the error that names it, and the way into a config and back."""

import dataclasses
import math

import pytest
from ml_collections import ConfigDict

from cxr_jax.store.settings import Auto, derived, from_settings, setting, to_settings
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = setting(0.1, at_least=0, below=1)
    signed: float = setting(-0.5, at_least=-1, at_most=1)
    free: float = 0.0
    ratio: float = setting(0.5, above=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int = setting(3, at_least=1)
    offset: int = 0
    kind: str = setting('a', one_of=('a', 'b'))
    on: bool = False
    size: Auto = setting('auto', at_least=2)
    span: tuple[float, float] = setting((0.2, 1.0), above=0, at_most=1)
    steps: tuple[float, ...] = setting((0.6, 0.8), at_least=0, at_most=1)
    sizes: tuple[int, ...] = setting((), at_least=1)
    names: tuple[str, ...] = ()
    choices: tuple[str, ...] = setting((), one_of=('x', 'y'))
    pair: tuple[int, str] = (1, 'one')
    filled: int = derived(0)
    inner: Inner = Inner()


def read(**entries):
    return from_settings(Outer(), entries, 'stage.s')


@pytest.mark.parametrize(
    ('field', 'value', 'kept'),
    [
        ('count', 1, 1),
        ('offset', -7, -7),
        ('kind', 'b', 'b'),
        ('on', True, True),
        ('size', 'auto', 'auto'),
        ('size', '64', 64),
        ('size', 64, 64),
        ('span', (1, 1), (1, 1)),
        ('span', [0.5, 1.0], (0.5, 1.0)),
        ('steps', (), ()),
        ('steps', (0, 0.9, 0.1), (0, 0.9, 0.1)),
        ('steps', (0.9, 0.1), (0.9, 0.1)),
        ('sizes', (8, 16), (8, 16)),
        ('names', ('nih14', 'mine'), ('nih14', 'mine')),
        ('choices', ('y', 'x'), ('y', 'x')),
        ('pair', (-2, 'two'), (-2, 'two')),
    ],
)
def test_values_that_a_field_takes(field, value, kept):
    found = getattr(read(**{field: value}), field)
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(
    ('field', 'value', 'expected'),
    [
        ('rate', 0, 0.0), ('rate', 0.999, 0.999), ('signed', -1, -1.0), ('signed', 1.0, 1.0),
        ('free', -1e300, -1e300), ('ratio', 1, 1.0), ('ratio', 1e-12, 1e-12),
    ],
)  # fmt: skip
def test_numbers_up_to_the_ends_of_their_range(field, value, expected):
    found = getattr(read(inner={field: value}).inner, field)
    assert found == expected and type(found) is float


@pytest.mark.parametrize(
    ('field', 'value', 'words'),
    [
        ('count', 0, ['stage.s.count=0', '1 or more']),
        ('count', -3, ['1 or more']),
        ('count', 2.0, ['stage.s.count=2.0', 'a whole number']),
        ('count', True, ['a whole number']),
        ('count', '3', ['a whole number']),
        ('count', None, ['a whole number']),
        ('kind', 'c', ['stage.s.kind=c', 'one of a, b']),
        ('kind', 1, ['text']),
        ('on', 1, ['True or False']),
        ('on', 'yes', ['True or False']),
        ('size', 'lots', ['stage.s.size=lots', 'a whole number or auto']),
        ('size', '-4', ['a whole number or auto']),
        ('size', '2.5', ['a whole number or auto']),
        ('size', 1, ['stage.s.size=1', '2 or more']),
        ('span', 0.5, ['must be a tuple', '(0.2, 1.0)']),
        ('span', (0.5,), ['stage.s.span=(0.5,)', 'must be 2 numbers']),
        ('span', (0.1, 0.2, 0.3), ['must be 2 numbers']),
        ('span', (0.9, 0.5), ['the lower one first']),
        ('span', (0.0, 0.5), ['above 0 and 1 or less']),
        ('span', (0.5, 1.5), ['1 or less']),
        ('span', (0.5, math.nan), ['finite']),
        ('span', ('a', 'b'), ['must be 2 numbers']),
        ('steps', 'early', ['must be a tuple', '(0.6, 0.8)']),
        ('steps', (0.5, '0.6'), ['must be numbers']),
        ('steps', (0.5, True), ['must be numbers']),
        ('steps', (0.5, -0.1), ['0 or more']),
        ('steps', (0.5, math.inf), ['finite']),
        ('sizes', (8, 0), ['1 or more']),
        ('sizes', (8, 4.0), ['must be numbers']),
        ('sizes', (True,), ['must be numbers']),
        ('names', 'nih14', ['must be a tuple', "('name',)"] ),
        ('names', (1,), ['must be names']),
        ('choices', ('x', 'z'), ['one of x, y']),
        ('pair', ('one', 1), ['must be 2']),
        ('absent', 1, ['stage.s.absent does not exist', 'count, offset']),
    ],
)  # fmt: skip
def test_values_that_a_field_refuses(field, value, words):
    with pytest.raises(UserError) as refused:
        read(**{field: value})
    assert '\n' not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ('field', 'value', 'words'),
    [
        ('rate', -1e-9, ['stage.s.inner.rate=-1e-09', '0 or more and below 1']),
        ('rate', 1, ['below 1']),
        ('rate', math.nan, ['inner.rate=nan', 'finite']),
        ('rate', 'fast', ['a number']),
        ('rate', True, ['a number']),
        ('signed', -1.01, ['-1 or more and 1 or less']),
        ('free', math.inf, ['finite']),
        ('free', math.nan, ['finite']),
        ('ratio', 0.0, ['above 0']),
    ],
)
def test_numbers_out_of_their_range(field, value, words):
    with pytest.raises(UserError) as refused:
        read(inner={field: value})
    for word in words:
        assert word in str(refused.value)


def test_a_section_is_not_a_value():
    with pytest.raises(UserError, match=r'stage\.s\.inner.*section'):
        read(inner=0.5)


def test_the_top_of_a_config_is_named_as_such():
    with pytest.raises(UserError, match=r'^--config\.absent does not exist; .*count, offset'):
        from_settings(Outer(), {'absent': 1}, '')


def test_there_and_back_through_a_locked_config():
    changed = Outer(
        offset=-2, size=32, span=(0.25, 0.5), sizes=(4,), names=('a', 'b'), filled=9,
        inner=Inner(rate=0.0, signed=-1.0),
    )  # fmt: skip
    config = ConfigDict(to_settings(changed)).lock()
    assert 'filled' not in config and config.size == '32'
    assert from_settings(Outer(), config.to_dict(), '') == dataclasses.replace(changed, filled=0)
    # An Auto field takes both kinds from the command line only as text.
    assert isinstance(ConfigDict(to_settings(Outer())).size, str)


def test_what_is_not_named_keeps_its_default():
    given = Outer(count=5, inner=Inner(signed=0.5))
    found = from_settings(given, {'inner': {'rate': 0.2}}, '')
    assert found == dataclasses.replace(given, inner=Inner(signed=0.5, rate=0.2))
