"""Writes results.json, results.md and the pictures of a run."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cxr_jax.report.cautions import own_loss
from cxr_jax.report.figures.gallery import gallery_picture
from cxr_jax.report.figures.health import health_picture
from cxr_jax.report.figures.pictures import confusion_picture, curves_picture, roc_picture
from cxr_jax.report.figures.pretext import pretext_picture
from cxr_jax.report.files import check_keys, write_page, write_pictures
from cxr_jax.report.markdown import to_markdown
from cxr_jax.report.measures import headline_of
from cxr_jax.report.page import PICTURES, run_page, run_title

_RESULTS = (
    'name banner preset region command encoder seed curriculum folds data stages test no_maps '
    'attention boxes retention bundles params_sha256 bytes versions device'
)
DATA_KEYS = 'name fingerprint size names exclusive has_patient_ids counts name_counts'
STAGE_KEYS = (
    'stage fold key parent_key epochs steps batch_size learning_rate wall_seconds '
    'images_per_second metrics resumed reused search notes data'
)


def write_report(
    directory: str | os.PathLike,
    results: dict,
    curves: Sequence[Sequence[dict]] | None = None,
    predictions: Mapping[str, np.ndarray] | None = None,
    gallery: Mapping[str, np.ndarray | None] | None = None,
    watched: Sequence[Mapping[str, Sequence[dict]]] | None = None,
    pretext: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> list[pathlib.Path]:
    """Writes the report into `directory` (created if missing) and returns the files' paths.

    results: the dict described in cxr_jax.report. curves: the log of each stage of `results`, a
    list of {'step', 'loss', ...}. predictions: the table, of which scores [N, K] and labels (int
    [N], or int [N, K] of 1, 0, -1) are drawn as ROC curves. gallery: what gallery_picture takes,
    at least of the images that choose_examples names. watched: of each stage, the rows 'looks' and
    'probes' of its monitors. pretext: what pretext_picture takes. A picture whose data are missing
    is left out, and an older one of its name removed. results.json is written last. Raises
    ValueError if `results` lacks a key.
    """
    check_keys('a run', results, _RESULTS)
    check_keys('the data', results['data'], DATA_KEYS)
    for stage in results['stages']:
        check_keys('a stage', stage, STAGE_KEYS)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(results, curves, predictions, gallery)
    if watched and any(rows for each in watched for rows in each.values()):
        names = [stage['stage'] for stage in results['stages']]
        measure = headline_of(results['test'])[0] if results['test'] else None
        pictures['health.png'] = lambda: health_picture(names, watched, measure)
    if pretext:
        pictures['pretext.png'] = lambda: pretext_picture(pretext)
    paths = write_pictures(directory, pictures, older=PICTURES)
    page = to_markdown(run_title(results), run_page(results, pictures))
    return [*paths, *write_page(directory, 'results', page, results)]


def _pictures(
    results: dict,
    curves: Sequence[Sequence[dict]] | None,
    predictions: Mapping[str, np.ndarray] | None,
    gallery: Mapping[str, np.ndarray | None] | None,
) -> dict[str, Callable[[], Figure]]:
    """Name of each picture -> a function that draws it, in the order of PICTURES."""
    test, names = results['test'], list(results['data']['names'])
    pictures = {}
    if test and test['images'] and test['confusion'] is not None:
        pictures['confusion.png'] = lambda: confusion_picture(test['confusion'], names)
    if predictions:
        pictures['roc.png'] = lambda: roc_picture(
            predictions['scores'], predictions['labels'], names
        )
    if gallery and len(gallery['labels']):
        pictures['gallery.png'] = lambda: gallery_picture(**gallery, names=names)
    drawn = [
        {
            'title': _title(results, stage),
            'log': [row | {'loss': own_loss(row)} for row in log],
            'chance': stage['metrics'].get('chance_loss'),
        }
        for stage, log in zip(results['stages'], curves or [], strict=bool(curves))
        if stage['steps']  # some readouts train nothing
    ]
    if drawn:
        pictures['curves.png'] = lambda: curves_picture(drawn)
    return pictures


def _title(results: dict, stage: dict) -> str:
    """'1 rot', or '2 classify, fold 3'."""
    number = results['curriculum'].index(stage['stage']) + 1
    fold = '' if stage['fold'] is None else f', fold {stage["fold"] + 1}'
    return f'{number} {stage["stage"]}{fold}'
