"""Lines of benches that measure times, not rates."""

import json
import statistics


def spread(name: str, values: list[float], digits: int = 2) -> dict:
    """{name: median, name_range: [least, most]}."""
    ends = [round(min(values), digits), round(max(values), digits)]
    return {name: round(statistics.median(values), digits), f'{name}_range': ends}


def say(**line: object) -> None:
    """One JSON line on stdout."""
    print(json.dumps(line), flush=True)
