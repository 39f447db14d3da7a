"""How the measures of a test are shown: title, unit, direction, chance."""

import dataclasses


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
    found = test['measures'][name] if name not in test['figures'] else test['figures'][name]
    return Measure(
        found['title'], found['unit'], found['higher_is_better'], found.get('chance')
    )


def headline_of(test: dict) -> tuple[Measure, dict]:
    """The headline measure and its figure."""
    name = test['headline']
    return measure_of(test, name), test['figures'][name]['figure']
