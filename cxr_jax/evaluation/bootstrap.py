"""Patient-level bootstrap, and the figures it gives an interval to.

A *figure* is a dict {'value', 'low', 'high', 'reason'}: a fraction in [0, 1] or None, the bounds
of its 95 % percentile interval or None, and why something is missing or restricted ('' if not).
Patients are drawn with replacement, each with all of its images (Efron & Tibshirani 1993, ch. 13),
so that several radiographs of one patient do not pass for independent evidence.
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
_CHUNK = 2_000_000  # resamples x images held at a time: 16 MB an array

Statistics = dict[str, np.ndarray]  # name -> [resamples] or [resamples, columns]


def patient_bootstrap(
    statistic: Callable[[np.ndarray], Statistics],
    n_patients: int,
    n_images: int,
    resamples: int,
    seed: int,
) -> Statistics:
    """A statistic of every resample; `statistic` takes counts [b, P], the draws of each patient.

    `n_images` only sets how many resamples go through `statistic` at a time.
    """
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // max(n_images, 1))
    parts = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, max(n_patients, 1), size=(rows, n_patients))
        drawn += n_patients * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_patients)
        parts.append(statistic(counts.reshape(rows, n_patients).astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def figure(value: float, samples: np.ndarray, people: int, reason: str = '') -> dict:
    """The figure of a value, its resamples (NaN where undefined) and its number of patients."""
    usable = samples[np.isfinite(samples)]
    missing = ''
    if people < 2:
        # Resampling one patient returns the same patient: a width of zero would read as certainty.
        missing = 'images of one patient only: no interval'
    elif 2 * usable.size < samples.size:
        missing = f'defined in {usable.size} of {samples.size} resamples only: no interval'
    result = {'value': None, 'low': None, 'high': None, 'reason': reason}
    if np.isnan(value):
        return result
    result['value'] = float(value)
    if missing:
        return result | {'reason': '; '.join(filter(None, [reason, missing]))}
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(usable, [tail, 100 - tail])
    return result | {'low': float(low), 'high': float(high)}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    result = np.full(shape, np.nan)
    return np.divide(numerator, denominator, out=result, where=np.asarray(denominator) != 0)
