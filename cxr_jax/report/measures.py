"""How the measures of a test are shown: title, unit, direction, chance."""

import dataclasses
from collections.abc import Iterable

from cxr_jax.report.blocks import literal


@dataclasses.dataclass(frozen=True)
class Measure:
    """Title and unit ('percent' or 'decimal'); the chance level may be unknown."""

    title: str
    unit: str
    higher_is_better: bool
    chance: float | None = None

    def reaches(self, value: float) -> bool:
        """Whether a value is chance or worse."""
        return value <= self.chance if self.higher_is_better else value >= self.chance


def measure_of(test: dict, name: str) -> Measure:
    """Of the figures of a test, those of single names included."""
    found = test['figures'].get(name) or test['name_measures'][name]
    return Measure(found['title'], found['unit'], found['higher_is_better'], found.get('chance'))


def meanings(measures: Iterable[dict]) -> list[str]:
    """What each of them means, for a list; two of one title follow each other."""
    texts: dict[str, list[str]] = {}
    for found in measures:
        texts.setdefault(found['title'], []).append(literal(found['meaning']))
    return [f'*{literal(title)}*: {"; ".join(each)}.' for title, each in texts.items()]


def headline_of(test: dict) -> tuple[Measure, dict]:
    """The headline measure and its figure."""
    name = test['headline']
    return measure_of(test, name), test['figures'][name]['figure']
