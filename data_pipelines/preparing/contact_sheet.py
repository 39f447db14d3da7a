"""A picture of a few prepared images per class, to be looked at before training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_pipelines.prepared.records import Entry
from data_pipelines.preparing.ingest import Prepared

PER_CLASS = 6
TITLE_LETTERS = 30


def draw(rows: Sequence[tuple[str, Sequence[tuple[Entry, Prepared]]]], path: Path) -> None:
    """One row of up to PER_CLASS images per (class name, images), with lung outlines (cyan) and
    lesion boxes (yellow)."""
    figure = Figure(figsize=(2 * PER_CLASS, 2.4 * len(rows)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), PER_CLASS, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for line, (name, images) in zip(axes, rows, strict=True):
        for axis, (entry, prepared) in zip(line, images[:PER_CLASS], strict=False):
            _draw_image(axis, entry, prepared)
            facts = ' '.join(filter(None, (entry.sex, entry.view, entry.source)))
            axis.set_title(f'{name}\n{facts[:TITLE_LETTERS]}', fontsize=8)
    figure.savefig(path, dpi=100)


def _draw_image(axis, entry: Entry, prepared: Prepared) -> None:
    top = np.iinfo(prepared.image.dtype).max
    axis.imshow(prepared.image, cmap='gray', vmin=0, vmax=top, interpolation='antialiased')
    if prepared.lung_mask is not None and prepared.lung_mask.any():
        axis.contour(prepared.lung_mask, levels=[0.5], colors='cyan', linewidths=0.6)
    for x, y, w, h in entry.boxes:
        axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor='yellow', linewidth=0.8))
