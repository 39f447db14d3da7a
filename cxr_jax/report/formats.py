"""Numbers as pages and the console print them; 'n/a' for None and for what is not finite."""

import math
from collections.abc import Iterable

from cxr_jax.report.blocks import literal

NOT_AVAILABLE = 'n/a'


def is_known(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def percent(x: float | None) -> str:
    """0.8321 -> '83.2 %'."""
    return f'{100 * x:.1f} %' if is_known(x) else NOT_AVAILABLE


def decimal(x: float | None) -> str:
    """0.91234 -> '0.912'; from 1,000 on as `plain` does."""
    return f'{x:.3f}' if is_known(x) and abs(x) < 1000 else plain(x)


def number(x: float | None, unit: str) -> str:
    """A value of a measure whose unit is 'percent' or 'decimal'."""
    return percent(x) if unit == 'percent' else decimal(x)


def plain(x: float | None, digits: int = 4) -> str:
    """Rounded to significant digits, with thousands separators: 12345.6 -> '12,350'."""
    if not is_known(x):
        return NOT_AVAILABLE
    if float(x).is_integer() and abs(x) < 1e15:
        return f'{int(x):,}'
    rounded = float(f'{x:.{digits}g}')
    return f'{int(rounded):,}' if rounded.is_integer() else f'{rounded:g}'


def interval(figure: dict, unit: str = 'percent') -> str:
    """The bounds of a figure: '80.1 to 86.0 %', or '0.880 to 0.931'."""
    low, high = figure['low'], figure['high']
    if not (is_known(low) and is_known(high)):
        return NOT_AVAILABLE
    if unit == 'percent':
        return f'{100 * low:.1f} to {100 * high:.1f} %'
    return f'{low:.3f} to {high:.3f}'


def difference(x: float | None, unit: str = 'percent') -> str:
    """Of two percentages in points, 0.0123 -> '+1.2'; of decimals '+0.012'."""
    if not is_known(x):
        return NOT_AVAILABLE
    return f'{100 * x:+.1f}' if unit == 'percent' else f'{x:+.3f}'


def difference_interval(figure: dict, unit: str = 'percent') -> str:
    """'-1.0 to +3.4'."""
    low, high = figure['low'], figure['high']
    if not (is_known(low) and is_known(high)):
        return NOT_AVAILABLE
    return f'{difference(low, unit)} to {difference(high, unit)}'


def p_value(x: float | None) -> str:
    if not is_known(x):
        return NOT_AVAILABLE
    return '< 0.001' if x < 0.001 else f'{x:.3f}'


def confidence(part: dict) -> str:
    """'95 %' of results that name their confidence."""
    return f'{100 * part.get("confidence", 0.95):g} %'


def capital(text: str) -> str:
    """With a capital letter at its start."""
    return text[:1].upper() + text[1:]


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


def disk(size: float | None) -> str:
    """Bytes in powers of 1,024: '352 MiB', '1.4 GiB'."""
    if not is_known(size):
        return NOT_AVAILABLE
    for unit in ('bytes', 'KiB', 'MiB'):
        if size < 999.5:
            return f'{size:.3g} {unit}'
        size /= 1024
    return f'{size:,.1f} GiB'


def listed(texts: Iterable[str], most: int | None = None) -> str:
    """'a, b and 3 more': each once."""
    texts = list(dict.fromkeys(texts))
    more = f' and {len(texts) - most} more' if most and len(texts) > most else ''
    return ', '.join(texts[:most]) + more


def remarks(figures: Iterable[tuple[str, dict]]) -> tuple[str, ...]:
    """Why figures are missing or restricted: each reason once, with titles of all it concerns.

    The titles are marked text, the reasons data.
    """
    by_reason: dict[str, list[str]] = {}
    for title, figure in figures:
        if figure['reason']:
            by_reason.setdefault(figure['reason'], []).append(title)
    return tuple(
        f'{listed(titles, most=6)}: {literal(reason)}.' for reason, titles in by_reason.items()
    )


def two_cells(figure: dict, unit: str = 'percent') -> list[str]:
    """A figure's value and its interval."""
    return [number(figure['value'], unit), interval(figure, unit)]
