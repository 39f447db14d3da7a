"""Write predicted lung masks beside a prepared set, after quality control, complete or not at all.

The prepared records stay as they are. An image whose mask is rejected leaves every split of
whoever opens the set with these masks (prepared.open_prepared), for all regions alike.
"""

import csv
import dataclasses
import json
import os
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_pipelines.errors import UserError
from data_pipelines.prepared import mask_store
from data_pipelines.prepared.data import PreparedData
from data_pipelines.prepared.loader import eval_batches
from data_pipelines.prepared.lung_quality import Quality, checked
from data_pipelines.preparing.card import statistics
from data_pipelines.preparing.ingest import pixel_sums

SHEET_FILE = 'contact_sheet.png'
PER_ROW, ACCEPTED_ROWS, REJECTED_ROWS = 8, 2, 2
BATCH = 64


@dataclasses.dataclass
class _Inspection:
    """What one pass over the images has found."""

    accepted: list[tuple[str, str, int, bytes]] = dataclasses.field(default_factory=list)
    rejected: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    labels: Counter = dataclasses.field(default_factory=Counter)  # (split, label, accepted?)
    sums: list[dict] = dataclasses.field(default_factory=list)  # of the accepted training images
    examples: dict = dataclasses.field(default_factory=lambda: {True: [], False: []})


def write_masks(
    prepared: PreparedData,
    name: str,
    ids: Sequence[str],
    masks: Iterable[np.ndarray],
    origin: dict,
    quality: Quality | None = None,
) -> dict:
    """Writes <prepared dir>/masks/<name>/ and returns its card.

    `masks`: of every image of the whole prepared set, [R, R], > 0 = lung, in the order of `ids`;
    `origin`: what made them. UserError for a name that is no file name, and if no training mask
    is accepted.
    """
    if not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name):
        raise UserError(f'{name!r} cannot name lung masks; use letters, digits, _ and -.')
    if prepared.rows is not None:
        raise ValueError('masks are made for a whole prepared set')
    quality = quality or Quality()
    found = _inspect(prepared, dict(zip(ids, masks, strict=True)), quality)
    if not found.sums:
        reason, n = Counter(reason for *_, reason in found.rejected).most_common(1)[0]
        raise UserError(
            f'None of the predicted lung masks of the training images is believable ({n}: '
            f'{reason}), so none were written. Train the segmenter on images like these.'
        )
    card = _describe(prepared, name, found, origin, quality)
    final = prepared.directory / mask_store.FOLDER / name
    built = final.with_name(f'.{name}.incomplete')
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    mask_store.save(built / mask_store.MASKS_FILE, found.accepted)
    with (built / mask_store.REJECTED_FILE).open('w', newline='') as file:
        csv.writer(file).writerows([('image_id', 'split', 'reason'), *found.rejected])
    _draw(found.examples, built / SHEET_FILE)
    (built / mask_store.CARD_FILE).write_text(json.dumps(card, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(built, final)
    return card


def _inspect(prepared: PreparedData, masks: dict[str, np.ndarray], quality: Quality) -> _Inspection:
    found = _Inspection()
    for split in prepared.counts:
        row = 0
        for batch in eval_batches(prepared, split, BATCH, masks=False):
            images = batch['image'][batch['valid']][..., 0]
            for image, image_id, label in zip(
                images, batch['image_id'], batch['label'], strict=False
            ):
                mask, reason = checked(masks[str(image_id)], quality)
                found.labels[split, int(label), not reason] += 1
                if reason:
                    found.rejected.append((str(image_id), split, reason))
                else:
                    found.accepted.append((str(image_id), split, row, mask_store.pack(mask)))
                    if split == 'train':
                        found.sums.append(pixel_sums(image, mask))
                shown = found.examples[not reason]
                if len(shown) < PER_ROW * (REJECTED_ROWS if reason else ACCEPTED_ROWS):
                    shown.append((image, mask, reason))
                row += 1
    return found


def _describe(
    prepared: PreparedData, name: str, found: _Inspection, origin: dict, quality: Quality
) -> dict:
    def counts(accepted: bool) -> dict[str, dict]:
        return {
            split: {
                'images': sum(
                    n for (s, _, a), n in found.labels.items() if (s, a) == (split, accepted)
                ),
                'classes': [found.labels[split, k, accepted] for k in range(len(prepared.classes))],
            }
            for split in prepared.counts
        }

    return {
        'format': mask_store.FORMAT,
        'name': name,
        'data': prepared.card['fingerprint'],
        'dataset': prepared.name,
        'size': prepared.size,
        'classes': list(prepared.classes),
        'origin': origin,
        'quality': dataclasses.asdict(quality),
        'accepted': counts(True),
        'rejected': counts(False),
        'reasons': dict(Counter(reason for *_, reason in found.rejected).most_common()),
        'statistics': statistics(found.sums, prepared.bits),
        'fingerprint': mask_store.content_hash(
            prepared.card['fingerprint'], (entry[1:] for entry in found.accepted)
        ),
    }


def _draw(examples: dict[bool, list], path: Path) -> None:
    """Accepted images with their lung outline in cyan, then rejected ones in red with the reason"""
    lines = [
        (part[i : i + PER_ROW], colour)
        for part, colour in ((examples[True], 'cyan'), (examples[False], 'red'))
        for i in range(0, len(part), PER_ROW)
    ]
    figure = Figure(figsize=(1.7 * PER_ROW, 2.1 * len(lines)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), PER_ROW, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for (part, colour), row in zip(lines, axes, strict=True):
        for axis, (image, mask, reason) in zip(row, part, strict=False):
            top = np.iinfo(image.dtype).max
            axis.imshow(image, cmap='gray', vmin=0, vmax=top, interpolation='antialiased')
            if mask.any():
                axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.7)
            axis.set_title(textwrap.fill(reason, 28), fontsize=6)
    figure.savefig(path, dpi=100)
