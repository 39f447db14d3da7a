"""Writes results.json, results.md and the pictures of a run, each file atomically."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cxr_jax.report.figures.gallery import gallery_picture
from cxr_jax.report.figures.pictures import confusion_picture, curves_picture, roc_picture
from cxr_jax.report.page import PICTURES, render_page
from cxr_jax.store.files import write_atomically, write_text

_KEYS = {
    'results': 'name banner preset region command backbone params_sha256 seed curriculum data '
    'stages test attention boxes versions device',
    'data': 'name fingerprint size classes has_patient_ids counts class_counts',
    'stage': 'task key parent_key epochs steps batch_size learning_rate wall_seconds '
    'images_per_second metrics resumed reused notes',
}


def write_report(
    directory: str | os.PathLike,
    results: dict,
    curves: Sequence[Sequence[dict]] | None = None,
    predictions: Mapping[str, np.ndarray] | None = None,
    gallery: Mapping[str, np.ndarray | None] | None = None,
) -> list[pathlib.Path]:
    """Writes the report into `directory` (created if missing) and returns the files' paths.

    results: the dict described in cxr_jax.report. curves: the log of each stage of `results`, a
    list of {'step', 'loss', ...}. predictions: probabilities [N, K] and labels [N] of all test
    images, for the ROC curves. gallery: images, cams, masks, probabilities, labels, ail as in
    gallery_picture, at least of the images that choose_examples names. A picture whose data are
    missing is left out, and an older one of its name removed. results.json is written last.
    Raises ValueError if `results` lacks a key.
    """
    _check_keys(results)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(results, curves, predictions, gallery)
    for name in PICTURES:
        if name not in pictures:
            (directory / name).unlink(missing_ok=True)
    for name, figure in pictures.items():
        write_atomically(directory / name, lambda path, figure=figure: save_figure(figure, path))
    page = render_page(results, list(pictures))
    text = json.dumps(json_ready(results), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(directory / 'results.md', page)
    write_text(directory / 'results.json', text + '\n')
    return [directory / name for name in (*pictures, 'results.md', 'results.json')]


def json_ready(value: object) -> object:
    """Plain JSON types: arrays become lists, what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if hasattr(value, 'tolist'):  # NumPy and JAX arrays and scalars
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _check_keys(results: dict) -> None:
    parts = [('results', results), ('data', results.get('data', {}))]
    parts += [('stage', stage) for stage in results.get('stages', [])]
    for kind, part in parts:
        missing = [key for key in _KEYS[kind].split() if key not in part]
        if missing:
            raise ValueError(f'{kind} of the report lacks {", ".join(missing)}')


def _pictures(
    results: dict,
    curves: Sequence[Sequence[dict]] | None,
    predictions: Mapping[str, np.ndarray] | None,
    gallery: Mapping[str, np.ndarray | None] | None,
) -> dict[str, Figure]:
    classes = list(results['data']['classes'])
    pictures = {}
    if results['test'] and results['test']['images']:
        pictures['confusion.png'] = confusion_picture(results['test']['confusion'], classes)
    if predictions:
        pictures['roc.png'] = roc_picture(
            predictions['probabilities'], predictions['labels'], classes
        )
    if gallery and len(gallery['labels']):
        pictures['gallery.png'] = gallery_picture(**gallery, classes=classes)
    if curves:
        pictures['curves.png'] = curves_picture([
            {
                'title': f'{i} {stage["task"]}',
                'log': log,
                'chance': stage['metrics'].get('chance_loss'),
            }
            for i, (stage, log) in enumerate(zip(results['stages'], curves, strict=True), start=1)
        ])
    return pictures


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    # Without the version string equal results give equal bytes.
    figure.savefig(path, format='png', dpi=160, bbox_inches='tight', pad_inches=0.08,
                   metadata={'Software': None})
