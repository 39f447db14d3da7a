"""Whether embeddings still tell images apart: measures of what one training batch became.

`embeddings` {view: [N, D]}: row i of every view comes from image i. `assignments` {name: [N, K]}:
row i is the distribution of image i over K clusters or prototypes. All sums are in float64.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from cxr_jax.tasks.lejepa import sigreg

Rows = Mapping[str, np.ndarray]
LENGTH_FLOOR = 1e-12
SLICES = 256  # directions of SIGReg
SHARE_FLOOR = 1e-7  # RankMe's, added to every share


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; a row of zeros stays one."""
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), LENGTH_FLOOR)


def deviation(rows: np.ndarray) -> float:
    """Mean over the dimensions of the standard deviation of unit rows, times sqrt(D).

    1 for rows that point anywhere, 0 for rows that are all alike (Chen and He 2021, section 4.1).
    """
    return float(unit(rows).std(0).mean() * np.sqrt(rows.shape[1]))


def rankme(rows: np.ndarray) -> float:
    """Exponential of the entropy of the singular values, from 1 to min(N, D).

    Garrido et al. 2023, equation 1: the effective rank of the rows as they are, not centred.
    """
    rows = np.asarray(rows, np.float64)
    # Squares of the singular values, from the smaller side: wide embeddings are looked at often.
    squares = np.linalg.eigvalsh(rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows)
    values = np.sqrt(np.maximum(squares, 0))
    shares = values / max(values.sum(), LENGTH_FLOOR) + SHARE_FLOOR
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(one: np.ndarray, other: np.ndarray) -> float:
    """Mean squared distance of two views' unit rows of the same image.

    Wang and Isola 2020, equation 1 with alpha = 2: 0 where views agree, 2 at right angles.
    """
    return float(np.square(unit(one) - unit(other)).sum(1).mean())


def uniformity(rows: np.ndarray) -> float:
    """Logarithm of the mean of exp(-2 |a - b|^2) over the pairs of different unit rows.

    Wang and Isola 2020, equation 2 with t = 2: 0 where all rows are alike, -4 where all stand at
    right angles to each other.
    """
    rows = unit(rows)
    squares = 2 - 2 * (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
    return float(np.log(np.exp(-2 * squares).mean()))


def similarities(embeddings: Rows) -> tuple[float | None, float]:
    """Mean cosine similarity of two views of one image, and of different images.

    Over all pairs of views of equal width; the first is None with a single view, whose rows are
    then compared with each other.
    """
    rows = [unit(view) for view in embeddings.values()]
    pairs = [(a, b) for a, b in itertools.combinations(rows, 2) if a.shape == b.shape]
    positive, negative = [], []
    for one, other in pairs or [(row, row) for row in rows]:
        n = len(one)
        same = (one * other).sum()
        positive.append(same / n)
        negative.append(((one.sum(0) @ other.sum(0)) - same) / max(n * (n - 1), 1))
    return float(np.mean(positive)) if pairs else None, float(np.mean(negative))


def distance_from_normal(rows: np.ndarray) -> float:
    """SIGReg of the rows [N, D], shifted and scaled as a whole to mean 0 and mean variance 1.

    Mean Epps-Pulley statistic along SLICES directions that are always the same (Balestriero and
    LeCun 2025, section 4.2). Of an isotropic normal distribution 0.58 on average (1.06 were the
    mean not taken from the rows themselves), whatever N is; of any other it grows with N.
    """
    rows = np.asarray(rows, np.float64)
    centred = rows - rows.mean(0)
    scaled = centred / max(np.sqrt(np.square(centred).mean()), LENGTH_FLOOR)
    directions = np.random.default_rng(0).normal(size=(rows.shape[1], SLICES))
    return float(sigreg(scaled, unit(directions.T).T))


def clusters(assignments: np.ndarray) -> dict[str, float]:
    """How the rows [N, K] are spread over the clusters.

    'used': clusters that are the likeliest of some row; 'entropy' of the mean row and
    'row_entropy', the mean of the rows' own, in nats: their difference, what an assignment tells of
    the image, is 0 where all rows are alike.
    """
    rows = np.asarray(assignments, np.float64)
    return {
        'used': float(len(np.unique(rows.argmax(1)))),
        'entropy': float(_entropy(rows.mean(0))),
        'row_entropy': float(_entropy(rows).mean()),
    }


def health(embeddings: Rows, assignments: Rows) -> dict[str, float]:
    """All of the above, as means over the views and over the assignments.

    'centred_rank' is RankMe of the rows less their mean: a direction that all images share, as
    features behind a ReLU have, counts for nothing. 'positive' and 'alignment' only where there is
    more than one view.
    """
    views = [np.asarray(view, np.float64) for view in embeddings.values()]
    positive, negative = similarities(embeddings)
    found = {
        'std': float(np.mean([deviation(view) for view in views])),
        'rank': float(np.mean([rankme(view) for view in views])),
        'centred_rank': float(np.mean([rankme(view - view.mean(0)) for view in views])),
        'sigreg': float(np.mean([distance_from_normal(view) for view in views])),
        'uniformity': float(np.mean([uniformity(view) for view in views])),
        'negative': negative,
    }
    if positive is not None:
        # Of unit rows the squared distance is 2 - 2 cos.
        found |= {'positive': positive, 'alignment': 2 - 2 * positive}
    spread = [clusters(rows) for rows in assignments.values()]
    if spread:
        found |= {name: float(np.mean([each[name] for each in spread])) for name in spread[0]}
    return found


def _entropy(shares: np.ndarray) -> np.ndarray:
    """In nats, over the last axis."""
    return -(shares * np.log(np.maximum(shares, np.finfo(float).tiny))).sum(-1)
