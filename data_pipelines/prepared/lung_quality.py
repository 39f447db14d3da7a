"""Is a predicted lung mask believable? Two components of plausible area and position, or a reason.

Areas are shares of the prepared (square) image, positions shares of its side. Measured on the 81
human masks of covid-chestxray-dataset, consolidated lungs among them, at 128 px: always two
components; one lung 0.07 to 0.28, both 0.15 to 0.53; the smaller at least 0.67 of the larger;
centroids 0.28 to 0.55 apart sideways and at most 0.08 up and down, their middle at 0.40 to 0.58.
The bounds lie well outside, so that they catch failed predictions rather than unusual anatomy.
"""

import dataclasses

import numpy as np
from scipy import ndimage


@dataclasses.dataclass(frozen=True)
class Quality:
    """Bounds of a believable mask."""

    least_lung: float = 0.02  # area of one lung: below it, a speck beside the other lung
    most_lung: float = 0.35  # area of one lung: above it, a flood beyond the thorax
    least_total: float = 0.08  # area of both: a small child in a large frame passes
    most_total: float = 0.6  # area of both: a frame cropped to the lungs passes
    least_ratio: float = 0.25  # area of the smaller by the larger: a shrunken lung passes
    least_apart: float = 0.2  # of the centroids, sideways: two parts of one lung do not pass
    most_askew: float = 0.2  # of the centroids, up and down: a patient leaning over passes
    least_middle: float = 0.3  # where the middle of the centroids lies, from the left
    most_middle: float = 0.7

    def doubt(self, lungs: list[np.ndarray]) -> str:
        """Why these components (bool [R, R], largest first) are no pair of lungs; '' if they are"""
        if not lungs:
            return 'no lung found'
        if len(lungs) < 2:
            return 'one region only: a lung is missing, or both are joined'
        areas = [lung.mean() for lung in lungs]
        if areas[0] > self.most_lung:
            return f'one lung covers more than {self.most_lung:.0%} of the image'
        if areas[1] < self.least_lung:
            return f'the second lung covers less than {self.least_lung:.0%} of the image'
        if sum(areas) < self.least_total:
            return f'both lungs cover less than {self.least_total:.0%} of the image'
        if sum(areas) > self.most_total:
            return f'both lungs cover more than {self.most_total:.0%} of the image'
        if areas[1] < self.least_ratio * areas[0]:
            return f'one lung is smaller than {self.least_ratio:.0%} of the other'
        return self._misplaced(lungs)

    def _misplaced(self, lungs: list[np.ndarray]) -> str:
        size = lungs[0].shape[0]
        (y1, x1), (y2, x2) = ((np.add(ndimage.center_of_mass(x), 0.5)) / size for x in lungs)
        if abs(x1 - x2) < self.least_apart:
            return 'the two regions do not lie side by side'
        if abs(y1 - y2) > self.most_askew:
            return 'one region lies far above the other'
        if not self.least_middle <= (x1 + x2) / 2 <= self.most_middle:
            return 'both regions lie at one side of the image'
        return ''


def two_largest(mask: np.ndarray) -> list[np.ndarray]:
    """The two largest 8-connected components of a mask [R, R], holes filled, largest first."""
    numbered, n = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(numbered.ravel(), minlength=n + 1)[1:]
    largest = np.argsort(-areas, kind='stable')[:2] + 1
    # The lungs' projection has no holes: what is left out inside one is an opacity.
    filled = [ndimage.binary_fill_holes(numbered == k) for k in largest]
    return sorted(filled, key=lambda part: -part.sum())


def checked(mask: np.ndarray, quality: Quality) -> tuple[np.ndarray, str]:
    """The cleaned mask, uint8 0/1 [R, R], and why it is rejected ('' if it is not)."""
    lungs = two_largest(mask)
    both = np.logical_or.reduce(lungs) if lungs else np.zeros(mask.shape, bool)
    return both.astype(np.uint8), quality.doubt(lungs)
