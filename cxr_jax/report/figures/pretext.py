"""What pretext stages make of images: rows of them, one under the other."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cxr_jax.report.figures.pictures import STYLE, new_figure, show_image

# Inches: side of an image, gap between two, room for a stage's title, for the titles of rows.
_SIDE, _GAP, _TITLE, _LEFT = 1.2, 0.04, 0.32, 0.85


def pretext_picture(stages: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """{stage: {title of a row: images [n, S, S, C] in [0, 1]}}; the same image in every column."""
    columns = max(len(images) for rows in stages.values() for images in rows.values())
    lines = sum(len(rows) for rows in stages.values())
    width = _LEFT + columns * (_SIDE + _GAP)
    height = lines * (_SIDE + _GAP) + len(stages) * _TITLE
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, height, constrained=False)
        y = height
        for stage, rows in stages.items():
            y -= _TITLE
            figure.text(0, (y + 0.1) / height, stage, fontsize=10)
            for title, images in rows.items():
                y -= _SIDE + _GAP
                middle = (y + _SIDE / 2) / height
                figure.text((_LEFT - 0.1) / width, middle, title, ha='right', va='center')
                for column, image in enumerate(images):
                    x = _LEFT + column * (_SIDE + _GAP)
                    place = (x / width, y / height, _SIDE / width, _SIDE / height)
                    axes = figure.add_axes(place)
                    show_image(axes, image, 'nearest')
                    axes.set_axis_off()
    return figure
