"""Writes study.json, study.md and the pictures of a study."""

import os
import pathlib
from collections.abc import Callable

from matplotlib.figure import Figure

from cxr_jax.report.attention import INSIDE
from cxr_jax.report.blocks import literal, plain_text
from cxr_jax.report.figures.study_plots import Bars, bars_picture, search_picture
from cxr_jax.report.files import check_keys, write_page, write_pictures
from cxr_jax.report.markdown import to_markdown
from cxr_jax.report.measures import Measure
from cxr_jax.report.study_grid import Page, measure, pages_of
from cxr_jax.report.study_page import FOLDER, HEADLINE, picture_name, study_page
from cxr_jax.report.study_searches import searches_of
from cxr_jax.report.study_tables import has_attention
from cxr_jax.report.writer import DATA_KEYS

_KEYS = {
    'a study': 'name command banner data axes layout seeds folds measures headline cells means '
    'plan comparisons',
    'a cell': 'levels title kind label seed directory region stages test attention boxes',
    'a mean': 'levels title kind label seeds images patients figures per_name attention boxes',
}


def write_study(directory: str | os.PathLike, study: dict) -> list[pathlib.Path]:
    """Writes the report of a study into `directory` and returns the files' paths.

    study: the dict described in study_page.py. Pictures lie in `directory`/plots, of which older
    ones are removed. study.json is written last. Raises ValueError if a key is missing.
    """
    check_keys('a study', study, _KEYS['a study'])
    check_keys('the data', study['data'], DATA_KEYS)
    for cell in study['cells']:
        check_keys('a cell', cell, _KEYS['a cell'])
    for mean in study['means']:
        check_keys('a mean', mean, _KEYS['a mean'])
    directory = pathlib.Path(directory)
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(study)
    paths = write_pictures(folder, pictures, older=[path.name for path in folder.glob('*.png')])
    runs = {cell['directory'] for cell in study['cells']}
    galleries = {run for run in runs if (directory / run / 'gallery.png').is_file()}
    page = to_markdown(literal(study['name']), study_page(study, pictures, galleries))
    return [*paths, *write_page(directory, 'study', page, study)]


def _pictures(study: dict) -> dict[str, Callable[[], Figure]]:
    """Name of each picture -> a function that draws it."""
    found = {}
    for page in pages_of(study) if study['headline'] else ():
        found[picture_name(HEADLINE, page)] = lambda p=page: bars_picture(_headline(study, p))
        for part in INSIDE:
            if has_attention(study, part):
                name = picture_name(part, page)
                found[name] = lambda p=page, part=part: bars_picture(_inside(p, part))
    for search in searches_of(study):
        found[search.picture] = lambda search=search: search_picture(search)
    return found


def _headline(study: dict, page: Page) -> Bars:
    shown = measure(study, study['headline'], page.tests())
    where = ' (percent)' if shown.unit == 'percent' else ''
    return Bars(
        page,
        {key: row.figure(key[1], 'figures', study['headline']) for key, row in _places(page)},
        shown,
        label=f'{shown.title} on the test images{where}{_of(page)}',
    )


def _inside(page: Page, part: str) -> Bars:
    inside = INSIDE[part]
    return Bars(
        page,
        {key: row.figure(key[1], part, inside.share) for key, row in _places(page)},
        Measure(inside.title, 'percent', True),
        label=f'{inside.title}: share of the activation (percent){_of(page)}',
        marks={
            key: row.figure(key[1], part, inside.area)['value'] for key, row in _places(page)
        },
        mark_label=f'{inside.area_title} (a map without preference)',
    )


def _places(page: Page):
    return [((row.level, column), row) for row in page.rows for column in page.columns]


def _of(page: Page) -> str:
    return f'; {plain_text(page.title)}' if page.title else ''
