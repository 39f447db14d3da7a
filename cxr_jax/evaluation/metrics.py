"""Figures of merit of the test images, each with an interval from a patient-level bootstrap."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cxr_jax.evaluation import bootstrap
from cxr_jax.evaluation.bootstrap import CONFIDENCE, RESAMPLES, Statistics, figure, ratio
from data_pipelines.errors import UserError

_MEANS = {'balanced_accuracy': 'class_accuracy', 'macro_f1': 'class_f1', 'macro_auc': 'class_auc'}
_INSIDE = ('share', 'area', 'excess')


class Structure(NamedTuple):
    """What attention is measured inside of, and the names of its figures."""

    what: str
    share: str
    area: str
    without: str  # key of the number of images that lack it


LUNGS = Structure('lung mask', 'ail', 'lung_area', 'without_mask')
BOXES = Structure('lesion box', 'box_attention', 'box_area', 'without_boxes')


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts [K, K]: rows are the true class, columns the predicted one."""
    cells = np.asarray(labels, np.int64) * n_classes + predictions
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Recall of each class, [..., K, K] -> [..., K]; NaN for a class without images."""
    return ratio(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1))


def class_f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class, [..., K, K] -> [..., K]; NaN for a class without images."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    images = confusion.sum(-1)
    return np.where(images > 0, ratio(2 * hits, images + confusion.sum(-2)), np.nan)


def overall_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of all images that are right, [..., K, K] -> [...]."""
    return ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def rank_auc(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Area under the ROC curve: P(score of a positive > a negative's) + P(equal) / 2.

    scores [N], positive bool [N], weights [B, N] (how often each image counts; default one row
    of ones). Returns [B]; NaN where the positives or the negatives are missing.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores[~positive])
    negatives = scores[~positive][order]
    total = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(weights[:, ~positive][:, order], axis=1, out=total[:, 1:])
    lower = np.searchsorted(negatives, scores[positive], 'left')
    not_higher = np.searchsorted(negatives, scores[positive], 'right')
    own = weights[:, positive]
    wins = (own * (total[:, lower] + total[:, not_higher])).sum(1) / 2
    return ratio(wins, own.sum(1) * total[:, -1])


def classification_figures(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    classes: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Every classification result of the test images, ready for JSON.

    probabilities [N, K], labels [N] in 0..K-1, patients [N], names of the K classes. The first
    most probable class is predicted. Means run over the classes that have a test image. Resamples
    in which such a class vanishes (`dropped_resamples`) do not count for intervals that need it.
    Raises UserError for probabilities that are not finite, ValueError for inputs that do not fit.
    """
    k = len(classes)
    labels, codes, n_patients = checked_rows(labels, patients, k)
    probabilities = _checked_probabilities(probabilities, (len(labels), k))
    predictions = probabilities.argmax(1)
    one_hot = labels[:, None] == np.arange(k)
    present, cells = one_hot.any(0), np.zeros((n_patients, k * k))
    np.add.at(cells, (codes, labels * k + predictions), 1)

    def statistic(counts: np.ndarray) -> Statistics:
        confusion = (counts @ cells).reshape(-1, k, k)
        images = counts[:, codes]
        auc = [rank_auc(probabilities[:, c], one_hot[:, c], images) for c in range(k)]
        per_class = {
            'class_accuracy': class_accuracies(confusion),
            'class_f1': class_f1(confusion),
            'class_auc': np.stack(auc, axis=1),
        }
        means = {
            mean: ratio(per_class[name][:, present].sum(1), present.sum())
            for mean, name in _MEANS.items()
        }
        return means | per_class | {'accuracy': overall_accuracy(confusion)}

    value = {name: x[0] for name, x in statistic(np.ones((1, n_patients))).items()}
    samples = bootstrap.patient_bootstrap(statistic, n_patients, len(labels), resamples, seed)
    people = [len(np.unique(codes[one_hot[:, c]])) for c in range(k)]
    absent = [_absence(name) for name, here in zip(classes, present, strict=True) if not here]
    return {
        'classes': list(classes),
        'images': len(labels),
        'patients': n_patients,
        'confidence': CONFIDENCE,
        'resamples': resamples,
        'seed': seed,
        **_headline(value, samples, n_patients, absent, k),
        'chance': _chance(one_hot.sum(0)),
        'per_class': [
            _class_row(c, classes[c], int(one_hot[:, c].sum()), people[c], value, samples)
            for c in range(k)
        ],
        'confusion': confusion_matrix(labels, predictions, k).tolist(),
        'dropped_resamples': int(np.isnan(samples['balanced_accuracy']).sum()),
        'notes': _notes(classes, people, absent),
    }


def attention_figures(
    ail: np.ndarray,
    lung_area: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    classes: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
    structure: Structure = LUNGS,
) -> dict:
    """Mean AIL beside the mean lung-area fraction (the AIL of a uniform map), ready for JSON.

    ail [N], NaN where the map has no positive value; lung_area [N], NaN where the image has no
    lung mask; labels, patients, classes as in classification_figures. All means run over the
    same images, those with both numbers; `excess` = AIL - lung area, image by image. Figures
    of another structure bear its names.
    """
    labels, codes, n_patients = checked_rows(labels, patients, len(classes))
    share, area = np.asarray(ail, np.float64), np.asarray(lung_area, np.float64)
    has_structure = np.isfinite(area)
    used = has_structure & np.isfinite(share)
    # Column 0 is all images, column 1 + c those of class c.
    group = np.column_stack([used, used[:, None] & (labels[:, None] == np.arange(len(classes)))])
    statistic = attention_statistic(share, area, group, codes, n_patients)
    value = statistic(np.ones((1, n_patients)))
    samples = bootstrap.patient_bootstrap(statistic, n_patients, len(labels), resamples, seed)

    def row(column: int, of: str) -> dict:
        members = group[:, column]
        people = len(np.unique(codes[members]))
        reason = '' if members.any() else f'no test image{of} with a {structure.what} and a map'
        figures = {
            name: figure(value[key][0, column], samples[key][:, column], people, reason)
            for key, name in zip(_INSIDE, (structure.share, structure.area, 'excess'), strict=True)
        }
        return {'images': int(members.sum()), **figures}

    return {
        **row(0, ''),
        structure.without: int((~has_structure).sum()),
        'without_activation': int((has_structure & ~used).sum()),
        'confidence': CONFIDENCE,
        'resamples': resamples,
        'seed': seed,
        'per_class': [
            {'name': name, **row(1 + c, f' of class {name}')} for c, name in enumerate(classes)
        ],
    }


def attention_statistic(
    share: np.ndarray, area: np.ndarray, group: np.ndarray, codes: np.ndarray, n_patients: int
) -> Callable[[np.ndarray], Statistics]:
    """For patient_bootstrap: means 'share', 'area' and 'excess' (their difference), [b, C] each.

    share [N], area [N], finite where counted; group bool [N, C], the images of each column;
    codes [N], the patient of each image.
    """
    used = group.any(1)
    numbers = {'images': np.ones(len(share)), 'share': share, 'area': area, 'excess': share - area}
    sums = {name: np.zeros((n_patients, group.shape[1])) for name in numbers}
    for name, x in numbers.items():
        np.add.at(sums[name], codes[used], x[used, None] * group[used])

    def statistic(counts: np.ndarray) -> Statistics:
        images = counts @ sums['images']
        return {name: ratio(counts @ sums[name], images) for name in _INSIDE}

    return statistic


def _headline(
    value: Statistics, samples: Statistics, n_patients: int, absent: list[str], n_classes: int
) -> dict:
    kept = n_classes - len(absent)
    mean_reason = f'mean over {kept} of {n_classes} classes: ' + '; '.join(absent)
    auc_reason = mean_reason if absent else ''
    if kept < 2:
        auc_reason = 'needs test images of at least two classes'
    reasons = {
        'balanced_accuracy': mean_reason if absent else '',
        'accuracy': '' if kept else 'no test image',
        'macro_f1': mean_reason if absent else '',
        'macro_auc': auc_reason,
    }
    return {
        name: figure(value[name], samples[name], n_patients, reason)
        for name, reason in reasons.items()
    }


def _class_row(
    c: int, name: str, images: int, people: int, value: Statistics, samples: Statistics
) -> dict:
    row = {'name': name, 'images': images, 'patients': people}
    for key in ('accuracy', 'f1', 'auc'):
        reason = '' if images else _absence(name)
        if images and np.isnan(value[f'class_{key}'][c]):
            reason = f'no test image of a class other than {name}'
        row[key] = figure(value[f'class_{key}'][c], samples[f'class_{key}'][:, c], people, reason)
    return row


def _absence(name: str) -> str:
    return f'no test image of class {name}'


def _chance(images: np.ndarray) -> dict:
    """What guessing without looking reaches, from images per class [K].

    accuracy: always the largest class; macro_f1: each class as often as it occurs;
    balanced_accuracy and macro_auc: any guess.
    """
    kept = int((images > 0).sum())
    mean = 1 / kept if kept else None
    return {
        'accuracy': float(images.max() / images.sum()) if kept else None,
        'balanced_accuracy': mean,
        'macro_f1': mean,
        'macro_auc': 0.5 if kept > 1 else None,
    }


def _notes(classes: Sequence[str], people: list[int], absent: list[str]) -> list[str]:
    notes = [
        f'{text[0].upper()}{text[1:]}: it has no figures, and means leave it out.'
        for text in absent
    ]
    for name, count in zip(classes, people, strict=True):
        if count == 1:
            notes.append(
                f'All test images of class {name} are of one patient: its figures have '
                'no interval, and the intervals of the means are too narrow.'
            )
    return notes


def checked_rows(
    labels: np.ndarray, patients: Sequence[str], n_classes: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels as int64, the patient number of every image, and the number of patients."""
    labels = np.asarray(labels, np.int64)
    names, codes = np.unique(np.asarray(patients, str), return_inverse=True)
    if len(labels) != len(codes):
        raise ValueError(f'{len(labels)} labels but {len(codes)} patients')
    if ((labels < 0) | (labels >= n_classes)).any():
        raise ValueError(f'labels {np.unique(labels)} do not all lie in 0..{n_classes - 1}')
    return labels, codes, len(names)


def _checked_probabilities(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.shape != shape:
        raise ValueError(f'probabilities {probabilities.shape}, expected [images, classes] {shape}')
    broken = int((~np.isfinite(probabilities).all(1)).sum())
    if broken:
        raise UserError(
            f'The classifier gives probabilities that are not finite for {broken} of {shape[0]} '
            'test images, so the training diverged. Lower the learning rate of the classify '
            'stage and train it again.'
        )
    return probabilities
