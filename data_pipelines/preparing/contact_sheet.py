"""A picture of a few prepared images of each label, to be looked at before training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_pipelines.preparing.entry import Entry
from data_pipelines.preparing.ingest import IngestedImage

PER_LABEL = 6
TITLE_LETTERS = 30


def draw(rows: Sequence[tuple[str, Sequence[tuple[Entry, IngestedImage]]]], path: Path) -> None:
    """One row of up to PER_LABEL images per (label, images), with lung outlines (cyan) and
    lesion boxes (yellow)."""
    figure = Figure(figsize=(2 * PER_LABEL, 2.4 * len(rows)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), PER_LABEL, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for line, (name, images) in zip(axes, rows, strict=True):
        for axis, (entry, ingested) in zip(line, images[:PER_LABEL], strict=False):
            _draw_image(axis, entry, ingested)
            facts = ' '.join(filter(None, (entry.sex, entry.view, entry.source)))
            title = f'{name}\n{facts[:TITLE_LETTERS]}'
            axis.set_title(title, fontsize=8, parse_math=False)  # a header may hold dollar signs
    figure.savefig(path, dpi=100)


def _draw_image(axis, entry: Entry, ingested: IngestedImage) -> None:
    top = np.iinfo(ingested.image.dtype).max
    # Matplotlib takes colours of 16 bits as numbers from 0 to 1 alone.
    axis.imshow(ingested.image / top, cmap='gray', vmin=0, vmax=1, interpolation='antialiased')
    if ingested.lung_mask is not None and ingested.lung_mask.any():
        axis.contour(ingested.lung_mask, levels=[0.5], colors='cyan', linewidths=0.6)
    for x, y, w, h in entry.boxes:
        axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor='yellow', linewidth=0.8))
