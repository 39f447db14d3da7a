"""Measures of exclusive classes that follow from the confusion matrix; the first most probable
class is the predicted one. Means run over the classes that have an image."""

import numpy as np

from cxr_jax.evaluation.bootstrap import Statistic, Statistics, ratio
from cxr_jax.evaluation.cohort import Cohort, Table
from cxr_jax.evaluation.measures.base import DECIMAL, NAME, Measure, mean_over_names


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


def confusion_statistic(cohort: Cohort, table: Table) -> Statistic:
    """The family of the measures below."""
    k = len(cohort.names)
    predictions = table['scores'].argmax(1)
    cells = np.zeros((cohort.n_patients, k * k))
    np.add.at(cells, (cohort.codes, cohort.labels * k + predictions), 1)
    present = cohort.positive.any(0)

    def statistic(counts: np.ndarray) -> Statistics:
        confusion = (counts @ cells).reshape(-1, k, k)
        accuracies, f1 = class_accuracies(confusion), class_f1(confusion)
        return {
            CLASS_ACCURACY.name: accuracies,
            CLASS_F1.name: f1,
            BALANCED_ACCURACY.name: mean_over_names(accuracies, present),
            MACRO_F1.name: mean_over_names(f1, present),
            ACCURACY.name: overall_accuracy(confusion),
        }

    return statistic


def _one_of_the_present(cohort: Cohort) -> float | None:
    """Any guess's accuracy; its F1 if each class is guessed as often as it occurs."""
    present = cohort.positive.any(0).sum()
    return float(1 / present) if present else None


def _largest_class(cohort: Cohort) -> float | None:
    images = cohort.positive.sum(0)
    return float(images.max() / images.sum()) if images.any() else None


CLASS_ACCURACY = Measure(
    'class_accuracy', 'accuracy', 'share of the images of the class that are recognised (recall)',
    confusion_statistic, level=NAME,
)  # fmt: skip
CLASS_F1 = Measure(
    'class_f1', 'F1', 'harmonic mean of precision and recall of the class',
    confusion_statistic, DECIMAL, NAME,
)  # fmt: skip
BALANCED_ACCURACY = Measure(
    'balanced_accuracy', 'balanced accuracy', 'mean of the class accuracies',
    confusion_statistic, chance=_one_of_the_present, mean_of=CLASS_ACCURACY,
)  # fmt: skip
MACRO_F1 = Measure(
    'macro_f1', 'macro F1', 'mean of F1 over the classes',
    confusion_statistic, DECIMAL, chance=_one_of_the_present, mean_of=CLASS_F1,
)  # fmt: skip
ACCURACY = Measure(
    'accuracy', 'accuracy', 'share of all images that are recognised; chance is the largest class',
    confusion_statistic, chance=_largest_class,
)  # fmt: skip
