"""Write predicted lung masks beside a prepared set, after quality control, complete or not at all.

The prepared records stay as they are. An image whose mask is rejected is not there for whoever
opens the set with these masks (data.open_prepared), for all regions alike.
"""

import csv
import dataclasses
import json
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_pipelines.errors import UserError
from data_pipelines.files import NAME
from data_pipelines.prepared import mask_store
from data_pipelines.prepared.corpus import Corpus
from data_pipelines.prepared.data import SPLITS, PreparedSet
from data_pipelines.prepared.loader import eval_batches
from data_pipelines.prepared.lung_quality import Quality, checked
from data_pipelines.prepared.statistics import pixel_sums
from data_pipelines.prepared.target import Target
from data_pipelines.storage import units

SHEET_FILE = 'contact_sheet.png'
PER_ROW, ACCEPTED_ROWS, REJECTED_ROWS = 8, 2, 2
BATCH = 64


@dataclasses.dataclass
class _Inspection:
    """What one pass over the images has found."""

    accepted: list[mask_store.Accepted] = dataclasses.field(default_factory=list)
    rejected: dict[int, str] = dataclasses.field(default_factory=dict)  # stored row: reason
    examples: dict = dataclasses.field(default_factory=lambda: {True: [], False: []})


def write_masks(
    prepared: PreparedSet,
    name: str,
    masks: Iterable[np.ndarray],
    origin: dict,
    quality: Quality | None = None,
) -> dict:
    """Writes <prepared dir>/masks/<name>/ and returns its card.

    `masks`: of every image of the prepared set in stored order, [R, R], > 0 = lung; `origin`: what
    made them. UserError for a name that is no file name, and if no mask is accepted.
    """
    if not NAME.fullmatch(name):
        raise UserError(f'{name!r} cannot name lung masks; use letters, digits, _ and -.')
    if prepared.masks is not None:
        raise ValueError('masks are made for a whole prepared set')
    quality = quality or Quality()
    found = _inspect(prepared, masks, quality)
    reasons = Counter(found.rejected.values()).most_common()
    if not found.accepted:
        reason, n = reasons[0]
        raise UserError(
            f'None of the predicted lung masks is believable ({n}: {reason}), so none were '
            'written. Train the segmenter on images like these.'
        )
    card = {
        'format': mask_store.FORMAT,
        'name': name,
        'data': prepared.card['fingerprint'],
        'dataset': prepared.name,
        'size': prepared.size,
        'names': list(prepared.names),
        'origin': origin,
        'quality': dataclasses.asdict(quality),
        **_counts(prepared, [each.row for each in found.accepted]),
        'reasons': dict(reasons),
        'fingerprint': mask_store.content_hash(prepared.card['fingerprint'], found.accepted),
    }
    final = prepared.directory / mask_store.FOLDER / name
    built = final.with_name(f'.{name}.incomplete')
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    mask_store.save(built / mask_store.MASKS_FILE, found.accepted)
    index = prepared.index
    with (built / mask_store.REJECTED_FILE).open('w', newline='') as file:
        csv.writer(file).writerows([
            ('image_id', 'split', 'reason'),
            *((index.image_id[k], index.split[k], why) for k, why in found.rejected.items()),
        ])  # fmt: skip
    _draw(found.examples, built / SHEET_FILE)
    (built / mask_store.CARD_FILE).write_text(json.dumps(card, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(built, final)
    units.settle(final, mask_store.CARD_FILE)
    return card


def _inspect(prepared: PreparedSet, masks: Iterable[np.ndarray], quality: Quality) -> _Inspection:
    found = _Inspection()
    batches = eval_batches(prepared.corpus(), BATCH, masks=False)
    images = (image for batch in batches for image in batch['image'][batch['valid']])
    for row, (image, predicted) in enumerate(zip(images, masks, strict=True)):
        mask, reason = checked(predicted, quality)
        if reason:
            found.rejected[row] = reason
        else:
            accepted = mask_store.Accepted(
                image_id=str(prepared.index.image_id[row]),
                row=row,
                content=mask_store.mask_content(mask),
                lung_sums=pixel_sums(image[mask.astype(bool)]),
                packed=mask_store.pack(mask),
            )
            found.accepted.append(accepted)
        shown = found.examples[not reason]
        if len(shown) < PER_ROW * (REJECTED_ROWS if reason else ACCEPTED_ROWS):
            shown.append((image, mask, reason))
    return found


def _counts(prepared: PreparedSet, accepted: list[int]) -> dict[str, dict]:
    """{'accepted', 'rejected'}: {split: {'images', 'names': [images that show each]}}."""
    target, kept = Target(prepared.names, exclusive=False), np.zeros(len(prepared.index), bool)
    kept[accepted] = True

    def counts(corpus: Corpus) -> dict:
        return {'images': len(corpus), 'names': target.counts(corpus)}

    whole = prepared.corpus()
    return {
        part: {
            split: counts(whole.take(where & (prepared.index.split == split)))
            for split in SPLITS
            if (prepared.index.split == split).any()
        }
        for part, where in (('accepted', kept), ('rejected', ~kept))
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
            axis.imshow(image / top, cmap='gray', vmin=0, vmax=1, interpolation='antialiased')
            if mask.any():
                axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.7)
            axis.set_title(textwrap.fill(reason, 28), fontsize=6)
    figure.savefig(path, dpi=100)
