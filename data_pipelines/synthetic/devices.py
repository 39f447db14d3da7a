"""What lies on bedside patients: electrodes and their wires, sometimes a venous catheter."""
import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.synthetic.anatomy import Plane


def _curve(points: list[tuple[float, float]], plane: Plane) -> list[tuple[float, float]]:
    """A Bezier curve of three or four points, in pixels."""
    line = np.array(points, float)
    t = np.linspace(0, 1, 25)[:, None, None]
    line = np.broadcast_to(line, (25, *line.shape))
    while line.shape[1] > 1:
        line = (1 - t) * line[:, :-1] + t * line[:, 1:]
    return [plane.pixel(x, y) for x, y in line[:, 0]]


def draw_devices(plane: Plane, rng: np.random.Generator) -> np.ndarray:
    """Metal and plastic [H, W] as cm of compact bone; independent of the label."""
    sheet = Image.new('L', plane.shape[::-1])
    draw = ImageDraw.Draw(sheet)
    thin = max(1, round(0.2 / plane.step))
    places = [(-8, 3), (8, 3), (9, 17), (-9, 17)]
    for place in places[: rng.integers(0, 5)]:
        x, y = np.array(place) + rng.normal(0, 1.3, 2)
        away = (x + rng.normal(0, 6), y + rng.uniform(4, 10))
        wire = [(x, y), away, (away[0] + rng.normal(0, 8), 24), (rng.uniform(-16, 16), 34)]
        draw.line(_curve(wire, plane), fill=90, width=thin)
        column, row = plane.pixel(x, y)
        for radius, fill in ((0.75, 50), (0.35, 210)):
            r = radius / plane.step
            draw.ellipse([column - r, row - r, column + r, row + r], fill=fill)
    if rng.random() < 0.35:
        catheter = [(-6, -8), (-4.5, 1), (-2.2, 4), (-1.8, rng.uniform(9, 13))]
        draw.line(_curve(catheter, plane), fill=110, width=thin)
    return np.asarray(sheet, np.float32) * np.float32(2.0 / 255)
