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
    measures: {name: {'title': 'macro-AUC', 'unit': 'percent' | 'decimal', 'higher_is_better'}} of
           every measure named below, those per name included;  headline: name of one of them
    cells: one per run, {
           levels: {axis: level} with every axis
           title: of its level of the row axis, e.g. 'moco → rot' (the same in all its cells)
           kind: heading of the group of rows it stands in ('' for none), label: order label or ''
           seed: int;  directory: str, relative to the study's;  region: str, as in the run's results
           stages, test, attention, boxes: as in the run's results (searches are stage['search']);
               test, attention and boxes None, and stages [], of a run that did not end}
    means: one per combination of levels that has a finished run with a readout, {
           levels, title, kind, label: as above;  seeds: list of int;  images, patients: int
           figures: {measure: figure | {'per_seed': [number or None], 'sd': number or None}}
           per_name: [{'name', 'figures': {measure: the same}}], one per class or finding
           attention: {'images', 'ail', 'lung_area', 'excess'} or None,
           boxes: {'images', 'box_attention', 'box_area', 'excess'} or None (their figures as above)}
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

from collections.abc import Collection, Iterator

from cxr_jax.report.findings import cautions
from cxr_jax.report.formats import percent, plain
from cxr_jax.report.page import table
from cxr_jax.report.study_searches import search_blocks
from cxr_jax.report.study_tables import (
    INSIDE,
    accuracy_table,
    attention_table,
    class_sets,
    class_table,
    comparison_blocks,
    has_attention,
    plan_table,
    rows_of,
    runs_table,
    summary_table,
    tests_of,
    title_of,
)

FOLDER = 'plots'  # of the pictures, beside study.md

READING = """\
- *Balanced accuracy*: mean of the class accuracies on the test images; the mean over the seeds.
- *95 % interval*: percentiles of a bootstrap that draws patients, each with all of their images, \
and averages the seeds in every resample. It covers the choice of test patients; how much \
training itself varies stands beside it as the *SD of seeds*.
- *Order*: "curriculum" if the balanced accuracies of the tasks alone (same region, this study) \
rise along the curriculum, "anti-curriculum" if they fall, else "mixed"; "full" if it contains \
every pretext task of the study. Where single tasks differ by less than their intervals, the \
label may be chance.
- *Best single task*: the one with the highest balanced accuracy on these test images. Being \
chosen there favours it, so the tests against it are strict.
- *p (Holm)*: p-value corrected for all comparisons of its region; below 0.05, the difference \
would be a surprise if no two models of the region differed.
- *AIL* (activation inside lungs): share of the positive class activation map of the predicted \
class that lies inside the lung mask; *inside boxes*: the same for the union of the lesion boxes, \
over the images that have some. A map without preference reaches the area beside it.
- AIL of images whose outside was blanked is not comparable with AIL of whole images."""


def picture_name(kind: str, class_set: str) -> str:
    """File of the bars of 'accuracy', 'attention' or 'boxes'."""
    return f'{kind}-{"".join(c if c.isalnum() else "-" for c in class_set.lower())}.png'


def render_study(
    study: dict, pictures: Collection[str] = (), galleries: Collection[str] = ()
) -> str:
    """The page in Markdown; `pictures` lie in FOLDER, `galleries` are runs' directories."""
    found = [f'> - {text}' for text in study_cautions(study)]
    blocks = [
        f'# {study["name"]}',
        '\n'.join(['> **Read this first**', '>', *found]) if found else '',
        _setting(study),
        plan_table(study['plan']),
        '## Accuracy',
        *_by_class_set(study, pictures, 'accuracy', _accuracy),
        '## Accuracy by class',
        *_by_class_set(study, pictures, '', _classes),
        '## Where the models look',
        *_inside(study, pictures),
        '## Comparisons',
        *comparison_blocks(study),
        '## Learning-rate searches',
        *search_blocks(study, FOLDER),
        '## Every run',
        runs_table(study, galleries),
        *_run_cautions(study),
        '## How to read the numbers',
        READING,
        '## How to reproduce',
        f'```\n{study["command"]}\n```',
        f'Data fingerprint `{study["data"]["fingerprint"]}`.',
    ]
    return '\n\n'.join(block for block in blocks if block) + '\n'


def study_cautions(study: dict) -> list[str]:
    """What a reader must know before believing a number of the study."""
    found = cautions({
        'banner': study['banner'], 'data': study['data'], 'stages': [], 'test': None,
        'attention': None,
    })  # fmt: skip
    if len(study['seeds']) == 1:
        found.append(
            f'One seed ({study["seeds"][0]}): the intervals cover the choice of test patients '
            'only. Another seed may rank the curricula differently.'
        )
    found += _too_few_resamples(study['comparisons'])
    missing = [
        f'{row.title} ({class_set}, {region})'
        for class_set in class_sets(study)
        for row in rows_of(study, class_set)
        for region in study['regions']
        if len(row.seeds(region)) < len(study['seeds'])
    ]
    if missing:
        more = f' and {len(missing) - 6} more' if len(missing) > 6 else ''
        found.append(
            f'Results of some seeds are missing: {", ".join(missing[:6])}{more}. Means over fewer '
            'seeds are less certain.'
        )
    with_cautions = sum(bool(_cautions_of(run)) for run in study['curricula'])
    if with_cautions:
        found.append(
            f'{plain(with_cautions)} of {plain(len(study["curricula"]))} runs have cautions of '
            'their own, listed below the table of every run.'
        )
    return found


def _too_few_resamples(comparisons: dict | None) -> list[str]:
    families = comparisons['families'] if comparisons else []
    number = max((family['comparisons'] for family in families), default=0)
    if not number or number / (1 + comparisons['resamples']) < 0.05:
        return []
    return [
        f'{plain(comparisons["resamples"])} resamples are too few for {plain(number)} comparisons: '
        "no p-value can fall below 0.05 after Holm's correction."
    ]


def _setting(study: dict) -> str:
    data = study['data']
    classes = list(data['classes']) if data['class_counts'] else []
    rows = [
        [split, plain(n), *map(plain, data['class_counts'].get(split, [None] * len(classes)))]
        for split, n in data['counts'].items()
    ]
    seeds = ', '.join(map(str, study['seeds']))
    return (
        f'{data["name"]} at {data["size"]} px; regions {", ".join(study["regions"])}; class sets '
        f'{", ".join(class_sets(study))}; seeds {seeds}.\n\n'
        + table(['split', 'images', *classes], rows)
    )


def _by_class_set(study: dict, pictures: Collection[str], kind: str, render) -> Iterator[str]:
    for class_set in class_sets(study):
        yield f'### Classes: {class_set}'
        name = picture_name(kind, class_set)
        if name in pictures:
            yield f'![{kind} of every curriculum, classes: {class_set}]({FOLDER}/{name})'
        yield from render(study, class_set)


def _accuracy(study: dict, class_set: str) -> Iterator[str]:
    tests = tests_of(study, class_set)
    if tests:
        chance = tests[0]['chance']['balanced_accuracy']
        yield (
            f'{plain(tests[0]["images"])} test images of {plain(tests[0]["patients"])} patients; '
            f'chance is {percent(chance)}.'
        )
    if len(study['regions']) > 1:
        yield summary_table(study, class_set)
    for region in study['regions']:
        yield from accuracy_table(study, class_set, region)


def _classes(study: dict, class_set: str) -> Iterator[str]:
    for region in study['regions']:
        yield from class_table(study, class_set, region)


def _inside(study: dict, pictures: Collection[str]) -> Iterator[str]:
    if not any(has_attention(study, part) for part in INSIDE):
        yield 'No test image has a lung mask or a lesion box.'
    for part in INSIDE:
        if not has_attention(study, part):
            continue

        def tables(study: dict, class_set: str, part: str = part) -> Iterator[str]:
            for region in study['regions']:
                yield from attention_table(study, class_set, region, part)

        yield '**Inside the lungs**' if part == 'attention' else '**Inside the lesion boxes**'
        yield from _by_class_set(study, pictures, part, tables)


def _cautions_of(run: dict) -> list[str]:
    """The run's cautions that are not the study's."""
    whole = {'banner': '', 'data': {'has_patient_ids': True}}
    return cautions(whole | {key: run[key] for key in ('stages', 'test', 'attention', 'region')})


def _run_cautions(study: dict) -> list[str]:
    """Every caution of single runs once, with its runs."""
    by_text = {}
    for run in study['curricula']:
        title = f'{title_of(run)} ({run["region"]}, {run["class_set"]}, seed {run["seed"]})'
        for text in _cautions_of(run):
            by_text.setdefault(text, []).append(title)
    if not by_text:
        return []
    lines = [
        f'- {text} *{titles[0]}{f" and {len(titles) - 1} more runs" if titles[1:] else ""}*'
        for text, titles in by_text.items()
    ]
    summary = f'<summary>Cautions of single runs ({len(lines)})</summary>'
    return ['\n'.join(['<details>', summary, '', *lines, '', '</details>'])]
