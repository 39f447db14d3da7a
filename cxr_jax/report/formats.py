"""Numbers as the page and the console print them; 'n/a' for None and for what is not finite."""

import math

NOT_AVAILABLE = 'n/a'


def is_known(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def percent(x: float | None) -> str:
    """0.8321 -> '83.2 %'."""
    return f'{100 * x:.1f} %' if is_known(x) else NOT_AVAILABLE


def decimal(x: float | None) -> str:
    """0.91234 -> '0.912'; from 1,000 on as `plain` does."""
    return f'{x:.3f}' if is_known(x) and abs(x) < 1000 else plain(x)


def plain(x: float | None, digits: int = 4) -> str:
    """Rounded to significant digits, with thousands separators: 12345.6 -> '12,350'."""
    if not is_known(x):
        return NOT_AVAILABLE
    if float(x).is_integer() and abs(x) < 1e15:
        return f'{int(x):,}'
    rounded = float(f'{x:.{digits}g}')
    return f'{int(rounded):,}' if rounded.is_integer() else f'{rounded:g}'


def interval(figure: dict, in_percent: bool = True) -> str:
    """The bounds of a figure: '80.1 to 86.0 %', or '0.880 to 0.931'."""
    low, high = figure['low'], figure['high']
    if not (is_known(low) and is_known(high)):
        return NOT_AVAILABLE
    if in_percent:
        return f'{100 * low:.1f} to {100 * high:.1f} %'
    return f'{low:.3f} to {high:.3f}'


def duration(seconds: float | None) -> str:
    """'12.3 s', '3 min 05 s', '2 h 07 min'."""
    if not is_known(seconds):
        return NOT_AVAILABLE
    if seconds < 59.95:
        return f'{seconds:.1f} s'
    whole = round(seconds)
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    minutes = round(seconds / 60)
    return f'{minutes // 60} h {minutes % 60:02d} min'
