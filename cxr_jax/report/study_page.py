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
           every measure named below, those by name included;  headline: name of one of them
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
from cxr_jax.report.blocks import (
    Block,
    Cautions,
    Code,
    Items,
    Picture,
    Section,
    Text,
    code,
    literal,
)
from cxr_jax.report.cautions import cautions, own_cautions
from cxr_jax.report.formats import capital, listed, number, plain
from cxr_jax.report.measures import meanings
from cxr_jax.report.page import setting_blocks
from cxr_jax.report.study_grid import Page, measure, pages_of, run_title
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

FOLDER = 'plots'  # of the pictures, beside study.md
HEADLINE = 'headline'  # kind of a picture, beside the parts of INSIDE


def picture_name(kind: str, page: Page) -> str:
    """File of the bars of HEADLINE, 'attention' or 'boxes'."""
    return f'{kind}{page.slug}.png'


def study_page(
    study: dict, pictures: Collection[str] = (), galleries: Collection[str] = ()
) -> list[Block]:
    """The blocks of study.md; `pictures` lie in FOLDER, `galleries` are runs' directories."""
    pages = list(pages_of(study))
    title = study['measures'][study['headline']]['title']
    by_name = _sections(pages, (), '', lambda page, column: names_table(study, page, column))
    what = 'class' if study['data']['exclusive'] else 'finding'
    return [
        Cautions(tuple(study_cautions(study))),
        *setting_blocks(study['data'], _setting(study)),
        plan_table(study),
        Section(
            capital(title),
            tuple(_sections(
                pages, pictures, HEADLINE,
                lambda page, column: headline_table(study, page, column),
                first=lambda page: _headline(study, page),
            )),
        ),
        *([Section(_by_name_title(study, pages, what), tuple(by_name))] if by_name else []),
        Section('Where the models look', tuple(_inside(study, pages, pictures))),
        Section('Comparisons', tuple(comparison_blocks(study))),
        Section('Learning-rate searches', tuple(search_blocks(study, FOLDER))),
        Section('Every run', (runs_table(study, galleries), *_run_cautions(study))),
        Section('How to read the numbers', (Items(_reading(study)),)),
        Section('How to reproduce', (
            Code(study['command']), Text(f'Data fingerprint {code(study["data"]["fingerprint"])}.'),
        )),
    ]  # fmt: skip


def study_cautions(study: dict) -> list[str]:
    """What a reader must know before believing a number of the study."""
    found = cautions({
        'banner': study['banner'], 'data': study['data'], 'stages': [], 'test': None,
        'attention': None,
    })  # fmt: skip
    if len(study['seeds']) == 1:
        found.append(
            f'One seed ({study["seeds"][0]}): the intervals cover the choice of test patients '
            'only. Another seed may rank the rows differently.'
        )
    found += _too_few_resamples(study['comparisons'])
    missing = [run_title(study, cell) for cell in study['cells'] if not cell['stages']]
    if missing:
        found.append(
            f'Results of some runs are missing: {listed(missing, most=6)}. Means over fewer '
            'seeds are less certain.'
        )
    with_cautions = sum(bool(own_cautions(cell)) for cell in study['cells'])
    if with_cautions:
        found.append(
            f'{plain(with_cautions)} of {plain(len(study["cells"]))} runs have cautions of '
            'their own, listed below the table of every run.'
        )
    return found


def _too_few_resamples(comparisons: dict | None) -> list[str]:
    families = comparisons['families'] if comparisons else []
    most = max((family['comparisons'] for family in families), default=0)
    if not most or most / (1 + comparisons['resamples']) < 0.05:
        return []
    return [
        f'{plain(comparisons["resamples"])} resamples are too few for {plain(most)} comparisons: '
        "no p-value can fall below 0.05 after Holm's correction."
    ]


def _setting(study: dict) -> str:
    data = study['data']
    axes = [
        f'{literal(axis)}: {", ".join(map(literal, levels))}'
        for axis, levels in study['axes'].items()
    ]
    folds = f' Every run is cross-validated over {study["folds"]} folds.' if study['folds'] else ''
    return (
        f'{literal(data["name"])} at {data["size"]} px; {"; ".join(axes)}; seeds '
        f'{", ".join(map(str, study["seeds"]))}.{folds}'
    )


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
    if page.tests:
        images, patients = (page.tests[0][key] for key in ('images', 'patients'))
        shown, chance = measure(study, study['headline'], page), ''
        if shown.chance is not None:
            chance = f'; chance is {number(shown.chance, shown.unit)}'
        blocks.append(Text(
            f'{plain(images)} test images of {plain(patients)} patients{chance}.'
        ))  # fmt: skip
    return blocks + ([grid_table(study, page)] if len(page.columns) > 1 else [])


def _by_name_title(study: dict, pages: list[Page], what: str) -> str:
    """'Accuracy by class'."""
    with_names = next(page for page in pages if page.names)
    title = study['measures'][first_of_names(with_names)]['title']
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


def _run_cautions(study: dict) -> list[Block]:
    """Every caution of single runs once, with its runs."""
    by_text: dict[str, list[str]] = {}
    for cell in study['cells']:
        for text in own_cautions(cell):
            by_text.setdefault(text, []).append(run_title(study, cell))
    if not by_text:
        return []
    lines = tuple(
        f'{text} *{titles[0]}{f" and {len(titles) - 1} more runs" if titles[1:] else ""}*'
        for text, titles in by_text.items()
    )
    return [Items(lines, title=f'Cautions of single runs ({len(lines)})')]


def _reading(study: dict) -> tuple[str, ...]:
    headline = study['measures'][study['headline']]['title']
    texts = [
        '*Figures* are means over the seeds, on the test images.',
        *meanings(study['measures'].values()),
        '*95 % interval*: percentiles of a bootstrap that draws patients, each with all of their '
        'images, and averages the seeds in every resample. It covers the choice of test patients; '
        'how much training itself varies stands beside it as the *SD of seeds*.',
    ]
    if study['folds']:
        texts.append(
            '*Folds*: every image is tested once a seed, by the network that has not seen its '
            'patient; figures are those of all folds together.'
        )
    if any(cell['label'] for cell in study['cells']):
        texts.append(
            f'*Order*: "curriculum" if the {headline} of the tasks alone (everything else equal, '
            'this study) gets better along the curriculum, "anti-curriculum" if it gets worse, '
            'else "mixed"; "full" if it contains every pretext task of the study. Where single '
            'tasks differ by less than their intervals, the label may be chance.'
        )
    rows = study['comparisons']['comparisons'] if study['comparisons'] else []
    if any(row['role'].startswith('best') for row in rows):
        texts.append(
            '*Best*: the one with the best result on these test images. Being chosen there '
            'favours it, so the tests against it are strict.'
        )
    if rows:
        texts.append(
            '*p (Holm)*: p-value corrected for all comparisons of its family; below 0.05, the '
            'difference would be a surprise if no two models of the family differed.'
        )
    if any(has_attention(study, part) for part in INSIDE):
        texts += [
            '*AIL* (activation inside lungs): share of the positive class activation map that '
            'lies inside the lung mask; *inside boxes*: the same for the union of the lesion '
            'boxes, over the images that have some. A map without preference reaches the area '
            'beside it.',
            'AIL of images whose outside was blanked is not comparable with AIL of whole images.',
        ]
    return tuple(texts)
