"""The page of a study: a function study -> blocks, for study.md and the console alike.

`study` is a dict with these keys (numbers may be None where unknown; a *figure* is {'value', 'low',
'high', 'reason'}):

    name, command, banner ('' or a caution for the top of the page): str
    data: as in the results of a run (cxr_jax.report): name, fingerprint, size, names, exclusive,
           counts, name_counts, has_patient_ids
    axes: {axis: [its levels, all str, in the order of the page]}, e.g. {'curriculum': ['scratch',
           'moco_rot'], 'region': ['full', 'lungs_black'], 'classes': ['all', 'negative/typical']}
    layout: {'rows': axis, 'columns': axis or ''}. Every axis that is neither is a page: each
           combination of their levels has tables of its own.
    seeds: list of int;  folds: int, 0 for one split
    measures: {name: {'title', 'meaning', 'unit': 'percent' | 'decimal', 'higher_is_better'}} of
           every measure named below, those by name included
    headline: name of one of them; '' if no run has a readout
    cells: one per run, {
           levels: {axis: level} with every axis
           title: of its level of the row axis, e.g. 'moco → rot' (the same in all its cells)
           kind: heading of the group of rows it stands in ('' for none), label: order label or ''
           seed: int;  directory: str, relative to the study's;  region: str, of the run's results
           stages, test, attention, boxes: as in the run's results (searches are stage['search']);
               test, attention and boxes None, and stages [], of a run that did not end}
    means: one per combination of levels that has a finished run with a readout, {
           levels, title, kind, label: as above;  seeds: list of int;  images, patients: int
           figures: {measure: figure | {'per_seed': [number or None], 'sd': number or None}}
           per_name: [{'name', 'figures': {measure: the same}}], one per class or finding; the
               measure named first is shown
           attention: {'images', 'ail', 'lung_area', 'excess'} or None,
           boxes: {'images', 'box_attention', 'box_area', 'excess'} or None: figures as above}
    plan: {'runs', 'stages', 'distinct', 'shared', 'trained', 'found': numbers of stages,
           'estimated_seconds', 'seconds', 'bytes' (of the stages' folders)}, all optional
    comparisons: None or {
           axis: the axis whose levels are compared;  measure: name of the measure compared
           statistic, p_value, over: texts ('over': what the bootstrap draws, e.g. 'patients')
           resamples, seed: int;  confidence: e.g. 0.95
           families: [{'levels': {axis: level} that its comparisons have in common ({}: all of
               them), 'comparisons': their number, which Holm's correction runs over}]
           comparisons: [{'levels': {axis: level} of all other axes, 'first', 'second': levels of
               `axis`, 'role': why the second is a reference ('' or its own name if nothing is to be
               told, else e.g. 'best single task'), 'seeds': list of int, 'difference': figure of
               first - second, 'p', 'p_holm', 'images', 'patients'}]}

The chance level of a page's headline is that of its cells' `test`. Further keys are kept in
study.json and not shown.
"""

from collections.abc import Callable, Collection

from cxr_jax.report.attention import INSIDE
from cxr_jax.report.blocks import Block, Cautions, Code, Items, Picture, Section, Text, code
from cxr_jax.report.formats import capital, number, plain
from cxr_jax.report.page import setting_blocks
from cxr_jax.report.study_grid import Page, measure, pages_of
from cxr_jax.report.study_searches import search_blocks
from cxr_jax.report.study_tables import (
    attention_table,
    comparison_blocks,
    first_of_names,
    grid_table,
    has_attention,
    headline_table,
    names_table,
    plan_table,
    runs_table,
)
from cxr_jax.report.study_text import reading, run_cautions, setting, study_cautions

FOLDER = 'plots'  # of the pictures, beside study.md
NO_READOUT = 'No run of this study has ended with a readout, so nothing was tested.'
HEADLINE = 'headline'  # kind of a picture, beside the parts of INSIDE


def picture_name(kind: str, page: Page) -> str:
    """File of the bars of HEADLINE, 'attention' or 'boxes'."""
    return f'{kind}{page.slug}.png'


def study_page(
    study: dict, pictures: Collection[str] = (), galleries: Collection[str] = ()
) -> list[Block]:
    """The blocks of study.md; `pictures` lie in FOLDER, `galleries` are runs' directories."""
    pages = list(pages_of(study))
    return [
        Cautions(tuple(study_cautions(study))),
        *setting_blocks(study['data'], setting(study)),
        plan_table(study),
        *(_results(study, pages, pictures) if study['headline'] else [Text(NO_READOUT)]),
        Section('Learning-rate searches', tuple(search_blocks(study, FOLDER))),
        Section('Every run', (runs_table(study, galleries), *run_cautions(study))),
        Section('How to read the numbers', (Items(reading(study)),)),
        Section('How to reproduce', (
            Code(study['command']), Text(f'Data fingerprint {code(study["data"]["fingerprint"])}.'),
        )),
    ]  # fmt: skip


def _results(study: dict, pages: list[Page], pictures: Collection[str]) -> list[Section]:
    """Of the test images."""
    by_name = _sections(pages, (), '', lambda page, column: names_table(study, page, column))
    headline = _sections(
        pages, pictures, HEADLINE, lambda page, column: headline_table(study, page, column),
        first=lambda page: _headline(study, page),
    )  # fmt: skip
    title = study['measures'][study['headline']]['title']
    return [
        Section(capital(title), tuple(headline)),
        *([Section(_by_name_title(study, pages), tuple(by_name))] if by_name else []),
        Section('Where the models look', tuple(_inside(study, pages, pictures))),
        Section('Comparisons', tuple(comparison_blocks(study))),
    ]


def _sections(
    pages: list[Page],
    pictures: Collection[str],
    kind: str,
    tables: Callable[[Page, str], list[Block]],
    first: Callable[[Page], list[Block]] = lambda page: [],
) -> list[Block]:
    """Of every page its picture, what comes `first`, and the tables of its columns."""
    found: list[Block] = []
    for page in pages:
        name = picture_name(kind, page)
        shown = [Picture(f'{FOLDER}/{name}', f'{kind} of every row')] if name in pictures else []
        blocks = shown + first(page) + [b for column in page.columns for b in tables(page, column)]
        if blocks and page.title:
            found.append(Section(capital(page.title), tuple(blocks), level=3))
        else:
            found += blocks
    return found


def _headline(study: dict, page: Page) -> list[Block]:
    """Number of test images, chance level, and the table of all columns side by side."""
    blocks: list[Block] = []
    tested = {(test['images'], test['patients']) for test in page.tests()}
    if len(tested) == 1:
        images, patients = tested.pop()
        shown, chance = measure(study, study['headline'], page.tests()), ''
        if shown.chance is not None:
            chance = f'; chance is {number(shown.chance, shown.unit)}'
        blocks.append(Text(
            f'{plain(images)} test images of {plain(patients)} patients{chance}.'
        ))  # fmt: skip
    return blocks + ([grid_table(study, page)] if len(page.columns) > 1 else [])


def _by_name_title(study: dict, pages: list[Page]) -> str:
    """'Accuracy by class'."""
    what = 'class' if study['data']['exclusive'] else 'finding'
    page, column = next((p, c) for p in pages for c in p.columns if p.per_name(c))
    title = study['measures'][first_of_names(page, column)]['title']
    return f'{capital(title)} by {what}'


def _inside(study: dict, pages: list[Page], pictures: Collection[str]) -> list[Block]:
    blocks: list[Block] = []
    for part in INSIDE:
        if has_attention(study, part):
            where = 'lungs' if part == 'attention' else 'lesion boxes'
            blocks.append(Text(f'**Inside the {where}**'))
            blocks += _sections(
                pages, pictures, part,
                lambda page, column, part=part: attention_table(study, page, column, part),
            )  # fmt: skip
    return blocks or [Text('No test image has a lung mask or a lesion box.')]


