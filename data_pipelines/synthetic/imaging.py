"""From thickness maps to the picture on the reading screen."""
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from data_pipelines.synthetic.anatomy import FINEST_STEP, Plane
from data_pipelines.synthetic.cases import Case
from data_pipelines.synthetic.devices import draw_devices
from data_pipelines.synthetic.lesions import Lesion, draw_lesions, mottle
from data_pipelines.synthetic.sites import SITES, Site, burn_in
from data_pipelines.synthetic.skeleton import draw_bones
from data_pipelines.synthetic.thorax import Thorax, draw_thorax

# Effective linear attenuation at a chest beam of about 110 kV (mean energy near 60 keV), per cm;
# compact bone as in NIST's tables for its density of 1.9, water lowered by forward scatter.
WATER_PER_CM = 0.18
BONE_PER_CM = 0.45


@dataclass(frozen=True)
class Pose:
    """How the drawing plane falls onto the detector: matrix takes (column, row, 1) of the image
    to (column, row) of the plane."""

    matrix: np.ndarray
    shape: tuple[int, int]

    def forward(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image columns and rows of points of the plane."""
        inverse = np.linalg.inv(np.vstack([self.matrix, [0, 0, 1]]))
        points = inverse @ np.stack([columns, rows, np.ones_like(columns)]).astype(float)
        return points[0], points[1]

    def project(self, sheet: np.ndarray, resample=Image.Resampling.BILINEAR) -> np.ndarray:
        """A map of the plane [h, w], float32 or uint8, on the detector [H, W]."""
        picture = Image.fromarray(sheet)
        # PIL samples at pixel centres: shift by half a pixel on both sides.
        m = self.matrix
        offset = m[:, 2] + 0.5 - 0.5 * (m[:, 0] + m[:, 1])
        data = (m[0, 0], m[0, 1], offset[0], m[1, 0], m[1, 1], offset[1])
        out = picture.transform(
            self.shape[::-1], Image.Transform.AFFINE, data, resample
        )
        return np.asarray(out)


def image_shape(case: Case, image_size: int) -> tuple[int, int]:
    height, width = SITES[case.site].aspect
    return round(height * image_size), round(width * image_size)


def draw_pose(case: Case, plane: Plane, thorax: Thorax, image_size: int) -> Pose:
    """Position of the patient before the detector; differs between images of a study."""
    rng = case.rng('image', 10)
    site = SITES[case.site]
    shape = image_shape(case, image_size)
    portable = case.view == 'AP'
    turn = np.deg2rad(rng.normal(0, 2.2 if portable else 1.0))
    stature = thorax.anatomy.half_width[-1] / 13.3
    zoom = rng.uniform(0.84, 1.0) * (0.35 + 0.65 * stature)
    step = site.field * zoom / image_size  # cm of the plane per pixel
    middle = (
        rng.normal(0, 0.9 if portable else 0.5),
        0.5 * thorax.anatomy.dome[-1] + 2.0 + rng.normal(0, 0.9),
    )
    c, s = np.cos(turn) * step / plane.step, np.sin(turn) * step / plane.step
    column, row = plane.pixel(*middle)
    linear = np.array([[c, -s], [s, c]])
    offset = np.array([column, row]) - linear @ [(shape[1] - 1) / 2, (shape[0] - 1) / 2]
    return Pose(np.column_stack([linear, offset]), shape)


@dataclass(frozen=True)
class Phantom:
    """A posed patient: beam path in water and bone, the true lung field and lesion boxes."""

    water: np.ndarray
    bone: np.ndarray
    lung_mask: np.ndarray
    boxes: list[tuple[float, float, float, float]]
    pose: Pose
    spacing: float  # mm per pixel of the image, in the plane of the patient


def _box(lesion: Lesion, pose: Pose) -> tuple[float, float, float, float] | None:
    """x, y, width and height in pixels of the image; None if hardly any of it is in the picture."""
    x, y = pose.forward(*lesion.points())
    height, width = pose.shape
    x0, x1 = np.clip([x.min() - 0.5, x.max() + 1.5], 0, width)
    y0, y1 = np.clip([y.min() - 0.5, y.max() + 1.5], 0, height)
    if x1 - x0 < 3 or y1 - y0 < 3:
        return None
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def draw_phantom(case: Case, image_size: int) -> Phantom:
    """Everything about an image that depends on the patient and not on the detector."""
    plane = Plane.with_step(max(FINEST_STEP, 40 / image_size))
    thorax = draw_thorax(case, plane)
    bone = draw_bones(thorax, case.rng('patient', 5))
    texture = case.rng('patient', 7)
    lesions = draw_lesions(thorax, case.label, case.rng('study', 8))
    tissue = thorax.anatomy.lung_density * thorax.air
    tissue += 0.1 * thorax.aerated * mottle(texture, tissue.shape, max(2, round(0.5 / plane.step)))
    if case.view == 'AP':
        bone += draw_devices(plane, case.rng('image', 9))
    water = thorax.body - thorax.air + tissue - thorax.gas + thorax.vessels
    for lesion in lesions:
        water[lesion.window] += lesion.water
    np.maximum(water, 0, out=water)
    pose = draw_pose(case, plane, thorax, image_size)
    mask = pose.project(thorax.lung_field.view(np.uint8), Image.Resampling.NEAREST) > 0
    spacing = 10 * plane.step * math.hypot(*pose.matrix[:, 0])
    boxes = [box for lesion in lesions if (box := _box(lesion, pose)) is not None]
    return Phantom(water, bone, mask, boxes, pose, spacing)


def _blur_coarsely(picture: np.ndarray, sigma: float) -> np.ndarray:
    """A wide Gaussian, computed on a smaller grid."""
    factor = max(1, int(sigma / 2))
    small = np.asarray(Image.fromarray(picture).reduce(factor))
    small = gaussian_filter(small, sigma / factor, mode='nearest')
    shape = picture.shape[::-1]
    return np.asarray(Image.fromarray(small).resize(shape, Image.Resampling.BILINEAR))


def _collimator(shape: tuple[int, int], margin: float, rng: np.random.Generator) -> np.ndarray:
    """1 where the beam passes [H, W]: a slightly turned rectangle."""
    height, width = shape
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    slope = np.float32(rng.normal(0, 0.006))
    u, v = x + slope * (y - 0.5), y - slope * (x - 0.5)
    if not margin:
        return np.ones(shape, bool)
    # Radiographers do not cut lungs off.
    left, right, top, bottom = np.minimum(rng.exponential(margin, 4), 2 * margin)
    return (u > left) & (u < 1 - right) & (v > top) & (v < 1 - bottom)


def expose(phantom: Phantom, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Display values [H, W] in [0, 1], bright = dense: Beer-Lambert, scatter, detector blur,
    photon noise, logarithm, film-like response, edge enhancement."""
    pose = phantom.pose
    depth = pose.project(WATER_PER_CM * phantom.water + BONE_PER_CM * phantom.bone)
    beam = np.exp(-depth)
    open_field = _collimator(pose.shape, site.collimator, rng)
    beam *= np.where(open_field, np.float32(1), np.float32(2e-3))
    scattered = _blur_coarsely(beam * np.minimum(depth, 1), 0.07 * max(pose.shape))
    light = gaussian_filter(beam, site.blur, truncate=3) + site.scatter * scattered
    # Photon noise with the normal law, which the Poisson law approaches above some 50 counts.
    photons = site.exposure * rng.uniform(0.6, 1.6)
    light += np.sqrt(light / photons) * rng.standard_normal(light.shape, np.float32)
    exposed = -np.log(np.maximum(light, np.float32(1e-4)))
    # The automatic exposure control holds the lungs at one density.
    lungs = exposed[::4, ::4][phantom.lung_mask[::4, ::4]]
    target = min(max(site.density + rng.normal(0, 0.05), 0.15), 0.6)
    gradient = site.gradient * rng.lognormal(0, 0.12)
    middle = float(lungs.mean()) + math.log(1 / target - 1) / gradient
    shown = 1 / (1 + np.exp(gradient * (middle - exposed)))
    shown += site.sharpening * (shown - _blur_coarsely(shown, 0.03 * max(pose.shape)))
    if site.shutter:
        shown *= open_field
    return np.clip(shown, 0, 1)


def draw_radiograph(case: Case, phantom: Phantom) -> np.ndarray:
    """The finished picture [H, W] float32 in [0, 1], bright = dense, with burned-in marker."""
    rng = case.rng('image', 11)
    values = expose(phantom, SITES[case.site], rng)
    wobble = rng.uniform(-1, 1, 2)
    burn_in(values, case.marker, 'AP' if case.view == 'AP' else '', tuple(wobble))
    return values
