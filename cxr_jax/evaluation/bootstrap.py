"""Bootstrap over patients, or over patients and seeds, and the figures it gives an interval to.

A *figure* is a dict {'value', 'low', 'high', 'reason'}: a fraction in [0, 1] or None, the bounds
of its 95 % percentile interval or None, and why something is missing or restricted ('' if not).
Patients are drawn with replacement, each with all of its images (Efron & Tibshirani 1993, ch. 13),
so that several radiographs of one patient do not pass for independent evidence.

A model that was trained from several seeds is judged by the mean over them. Over patients, the
interval is that of these trainings on other patients. Over patients and seeds, each resample also
draws as many seeds with replacement, independently of the patients (Efron & Tibshirani 1993, ch. 8;
Owen 2007, The pigeonhole bootstrap), and the interval covers training again as well. Of S seeds
the draws have (S - 1) / S of their variance, so that with few seeds it is still too narrow.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
PATIENTS, PATIENTS_AND_SEEDS = 'patients', 'patients and seeds'
_CHUNK = 2_000_000  # resamples x images held at a time: 16 MB an array

Statistics = dict[str, np.ndarray]  # name -> [resamples] or [resamples, columns, ...]
Statistic = Callable[[np.ndarray], Statistics]  # of counts [b, P], the draws of each patient


@dataclasses.dataclass(frozen=True)
class Draws:
    """How many resamples are drawn, from which seed, and of what."""

    resamples: int = RESAMPLES
    seed: int = 0
    over: str = PATIENTS  # or PATIENTS_AND_SEEDS

    def __post_init__(self):
        if self.over not in (PATIENTS, PATIENTS_AND_SEEDS):
            raise ValueError(f'a bootstrap over {self.over!r}')

    def over_seeds(self, samples: np.ndarray, stream: int = 1) -> np.ndarray:
        """Means [B, ...] of samples [B, S, ...] over the S seeds that each resample draws.

        Calls of one `stream` and S draw the same seeds. Over patients alone, all seeds count once.
        """
        b, s = samples.shape[:2]
        if self.over == PATIENTS or s == 1:
            return samples.mean(1)
        # A stream of its own leaves the patients' draws as they are.
        drawn = np.random.default_rng([self.seed, stream]).integers(0, s, (b, s))
        return samples[np.arange(b)[:, None], drawn].mean(1)

    def restriction(self, *n_seeds: int) -> str:
        """What keeps the interval from covering what `over` promises; '' if nothing does."""
        if self.over == PATIENTS_AND_SEEDS and 1 in n_seeds:
            return 'one seed only: the interval does not cover training again'
        return ''


def bootstrap(statistic: Statistic, n_patients: int, n_images: int, draws: Draws) -> Statistics:
    """The statistic in every resample of the patients, [resamples, ...] each.

    `n_images` only sets how many resamples go through `statistic` at a time.
    """
    rng = np.random.default_rng(draws.seed)
    chunk = max(1, _CHUNK // max(n_images, 1))
    parts = []
    for start in range(0, draws.resamples, chunk):
        rows = min(chunk, draws.resamples - start)
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
