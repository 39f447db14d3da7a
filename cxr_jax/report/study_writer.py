"""Writes study.json, study.md and the pictures of a study, each file atomically."""

import json
import os
import pathlib

from matplotlib.figure import Figure

from cxr_jax.report.figures.study_plots import bars_picture, search_picture
from cxr_jax.report.study_page import FOLDER, picture_name, render_study
from cxr_jax.report.study_searches import searches_of
from cxr_jax.report.study_tables import INSIDE, class_sets, has_attention, rows_of, tests_of
from cxr_jax.report.writer import json_ready, save_figure
from cxr_jax.store.files import write_atomically, write_text

_KEYS = {
    'study': 'name command banner classes data regions seeds curricula plan comparisons means',
    'run': 'name tasks kind label region seed class_set directory test attention stages searches',
}


def write_study(directory: str | os.PathLike, study: dict) -> list[pathlib.Path]:
    """Writes the report of a study into `directory` and returns the files' paths.

    study: {'name', 'command', 'banner' ('' or a caution): str, 'classes': list, 'data': as in
    results.json, 'regions', 'seeds': lists, 'curricula': list of runs {'name', 'tasks', 'kind',
    'label', 'region', 'seed', 'class_set', 'directory' (relative to this one), 'test',
    'attention', 'stages': as in results.json, 'searches': list of search.json}, 'plan': the keys
    of study_tables.PLAN and 'estimated_seconds', 'seconds', all optional, 'comparisons': what
    comparison.compare_all returns or None, 'means': what seed_means.summarise returns}.
    Pictures lie in `directory`/plots, of which older ones are removed. study.json is written
    last. Raises ValueError if a key is missing.
    """
    _check_keys(study)
    directory = pathlib.Path(directory)
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(study)
    for path in folder.glob('*.png'):
        if path.name not in pictures:
            path.unlink()
    for name, draw in pictures.items():
        figure: Figure = draw()
        write_atomically(folder / name, lambda path, figure=figure: save_figure(figure, path))
    runs = {run['directory'] for run in study['curricula']}
    galleries = [run for run in runs if (directory / run / 'gallery.png').is_file()]
    write_text(directory / 'study.md', render_study(study, pictures, galleries))
    text = json.dumps(json_ready(study), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(directory / 'study.json', text + '\n')
    return [*(folder / name for name in pictures), directory / 'study.md', directory / 'study.json']


def _check_keys(study: dict) -> None:
    parts = [('study', study), *(('run', run) for run in study.get('curricula', []))]
    for kind, part in parts:
        missing = [key for key in _KEYS[kind].split() if key not in part]
        if missing:
            raise ValueError(f'a {kind} to be reported lacks {", ".join(missing)}')


def _pictures(study: dict) -> dict:
    """Name of each picture -> a function that draws it."""
    found = {}
    for class_set in class_sets(study):
        found[picture_name('accuracy', class_set)] = lambda c=class_set: _accuracy(study, c)
        for part in INSIDE:
            if has_attention(study, part):
                name = picture_name(part, class_set)
                found[name] = lambda c=class_set, p=part: _inside(study, c, p)
    for search in searches_of(study):
        found[search.picture] = lambda search=search: search_picture(search)
    return found


def _accuracy(study: dict, class_set: str) -> Figure:
    rows, regions, tests = rows_of(study, class_set), study['regions'], tests_of(study, class_set)
    return bars_picture(
        rows,
        regions,
        {(row.name, r): row.figure(r, 'balanced_accuracy') for row in rows for r in regions},
        label=f'balanced accuracy on the test images (percent; classes: {class_set})',
        line=tests[0]['chance']['balanced_accuracy'] if tests else None,
        line_label='chance',
    )


def _inside(study: dict, class_set: str, part: str) -> Figure:
    rows, regions = rows_of(study, class_set), study['regions']
    share, area, title, area_title = INSIDE[part]
    places = [(row, region) for row in rows for region in regions]
    return bars_picture(
        rows,
        regions,
        {(row.name, region): row.figure(region, part, share) for row, region in places},
        label=f'{title}: share of the activation (percent; classes: {class_set})',
        marks={(row.name, region): row.figure(region, part, area)['value']
               for row, region in places},
        mark_label=f'{area_title} (a map without preference)',
    )  # fmt: skip
