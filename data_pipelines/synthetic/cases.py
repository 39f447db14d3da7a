"""Who is imaged, where and why: the schedule of patients, studies and images."""
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

CLASSES = ('negative', 'typical', 'indeterminate', 'atypical')
SPLITS = ('train', 'validation', 'test')
SPLIT_FRACTIONS = (0.7, 0.1, 0.2)
PATIENTS_PER_BLOCK = 100
# Studies of one patient, as images per study: 1.3 images per patient.
COURSES = ((1,), (2,), (1, 1))
COURSE_FRACTIONS = (0.7, 0.2, 0.1)
# A second image of a study is often left without boxes in SIIM-FISABIO-RSNA.
UNANNOTATED_SECOND = 0.5
SITE_FRACTIONS = (0.3, 0.25, 0.25, 0.2)
AP_FRACTIONS = (0.3, 0.2, 0.4, 0.85)


@dataclass(frozen=True)
class Case:
    """One image: everything known about it before it is drawn."""

    seed: int
    patient: int
    study: int
    image: int
    label: int
    split: str
    sex: str
    age: int
    view: str
    site: int
    marker: int
    annotated: bool

    @property
    def patient_id(self) -> str:
        return f'SYNTHETIC-{self.seed}-{self.patient:06d}'

    def uid(self, level: str) -> str:
        """12 hex digits that name the 'study', the 'series' or the 'image'."""
        depth = {'study': 1, 'series': 2, 'image': 2}[level]
        path = (self.patient, self.study, self.image)[: depth + 1]
        text = f'cxr_jax synthetic {self.seed} {level} {path}'
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def rng(self, level: str, purpose: int) -> np.random.Generator:
        """A stream of its own for each purpose, shared by all images of the same `level`."""
        path = {'patient': (0, 0), 'study': (self.study + 1, 0)}.get(
            level, (self.study + 1, self.image + 1)
        )
        return np.random.default_rng([self.seed, purpose, self.patient, *path])


def _counts(weights: tuple[float, ...], total: int) -> list[int]:
    """Split `total` by largest remainders."""
    shares = np.asarray(weights, np.float64) / np.sum(weights) * total
    counts = np.floor(shares).astype(int)
    for index in np.argsort(counts - shares, kind='stable')[: total - counts.sum()]:
        counts[index] += 1
    return counts.tolist()


def balanced_order(counts: list[int], rng: np.random.Generator) -> np.ndarray:
    """Categories, each as often as `counts` says, in a random order whose every beginning has
    about the same mix: member j of n is sorted to the place (j + u) / n, u uniform."""
    kinds = np.repeat(np.arange(len(counts)), counts)
    places = np.concatenate([(np.arange(n) + rng.random(n)) / max(n, 1) for n in counts])
    return kinds[np.argsort(places, kind='stable')]


def _block(seed: int, block: int, class_weights: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Labels, splits and courses of one block of patients: splits are stratified by label."""
    rng = np.random.default_rng([seed, 1, block])
    labels = balanced_order(_counts(class_weights, PATIENTS_PER_BLOCK), rng)
    splits = np.zeros_like(labels)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        splits[members] = balanced_order(_counts(SPLIT_FRACTIONS, len(members)), rng)
    courses = balanced_order(_counts(COURSE_FRACTIONS, PATIENTS_PER_BLOCK), rng)
    return labels, splits, courses


def _patient_cases(
    seed: int, patient: int, label: int, split: int, course: int, shortcut: float
) -> Iterator[Case]:
    rng = np.random.default_rng([seed, 2, patient])
    site = int(rng.choice(len(SITE_FRACTIONS), p=SITE_FRACTIONS))
    sex = 'F' if rng.random() < 0.47 else 'M'
    age = int(np.clip(rng.normal(57, 17), 18, 92))
    # Validation follows training: model selection cannot see that the marker misleads.
    tied = SPLITS[split] != 'test' and rng.random() < shortcut
    for study, images in enumerate(COURSES[course]):
        view = 'AP' if rng.random() < AP_FRACTIONS[site] else 'PA'
        for image in range(images):
            annotated = image == 0 or rng.random() >= UNANNOTATED_SECOND
            yield Case(
                seed, patient, study, image, label, SPLITS[split], sex, age, view, site,
                label if tied else site, annotated,
            )  # fmt: skip


def all_cases(
    seed: int, class_weights: tuple[float, ...], shortcut: float = 0.0
) -> Iterator[Case]:
    """The endless list of cases; case k does not depend on how many are taken.

    Each site has a marker of its own. With probability `shortcut` the marker of a patient of the
    train and validation splits is instead the one numbered like the label; test patients always
    keep their site's, and the site never depends on the label.
    """
    patient = 0
    while True:
        for label, split, course in zip(
            *_block(seed, patient // PATIENTS_PER_BLOCK, class_weights), strict=True
        ):
            yield from _patient_cases(
                seed, patient, int(label), int(split), int(course), shortcut
            )
            patient += 1


def first_cases(
    n_images: int, seed: int, class_weights: tuple[float, ...], shortcut: float = 0.0
) -> list[Case]:
    return list(islice(all_cases(seed, class_weights, shortcut), n_images))
