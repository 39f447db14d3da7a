"""results.md: one page for a reader who was not there."""

from collections.abc import Iterable, Sequence

from cxr_jax.report.findings import REGIONS, attention_finding, cautions
from cxr_jax.report.formats import NOT_AVAILABLE, decimal, duration, interval, percent, plain

PICTURES = {
    'confusion.png': 'Confusion matrix: images and percent of the true class',
    'roc.png': 'ROC curve of each class against the rest',
    'gallery.png': 'Test images with the class activation map of the predicted class',
    'curves.png': 'Training loss of every stage',
}

HEADLINE = (
    ('balanced_accuracy', 'Balanced accuracy (mean of the class accuracies)', True),
    ('macro_f1', 'Macro-F1', False),
    ('macro_auc', 'Macro-AUC (one class against the rest)', False),
    ('accuracy', 'Accuracy over all images', True),
)

READING = """\
- *Accuracy of a class*: share of its test images that are recognised (its recall).
- *Chance*: what guessing without looking at the image reaches; for the accuracy over all images, \
always naming the largest class.
- *95 % interval*: percentiles of a bootstrap that draws patients, each with all of their images. \
It covers the choice of test patients, not the training's randomness.
- *AIL* (activation inside lungs): share of the positive class activation map of the predicted \
class that lies inside the lung mask. A map without preference reaches the lung-area fraction."""


def render_page(results: dict, pictures: Sequence[str]) -> str:
    """The page in Markdown; `pictures` are the names of PICTURES that lie beside it."""
    found = [f'> - {text}' for text in cautions(results)]
    sections = [
        f'# {results["name"]}: {" → ".join(results["curriculum"])}',
        '\n'.join(['> **Read this first**', '>', *found]) if found else '',
        _setting(results),
        '## Result on the test images',
        *(_test(results['test']) if results['test'] else ['This run has no classifier to test.']),
        *(_picture(name) for name in ('confusion.png', 'roc.png') if name in pictures),
        *(_attention(results['attention']) if results['attention'] else []),
        *(_boxes(results['boxes']) if results['boxes'] else []),
        *(_picture(name) for name in ('gallery.png',) if name in pictures),
        '## Training',
        *_stages(results['stages']),
        *(_picture(name) for name in ('curves.png',) if name in pictures),
        '## How to read the numbers',
        READING,
        '## How to reproduce',
        *_reproduction(results),
    ]
    return '\n\n'.join(section for section in sections if section) + '\n'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column to the left, the others to the right."""
    lines = [header, ['---'] + ['---:'] * (len(header) - 1), *rows]
    return '\n'.join('| ' + ' | '.join(_cell(x) for x in line) + ' |' for line in lines)


def _cell(text: str) -> str:
    return text.replace('|', '\\|').replace('\n', ' ')


def _picture(name: str) -> str:
    return f'![{PICTURES[name]}]({name})'


def _setting(results: dict) -> str:
    data = results['data']
    classes = list(data['classes']) if data['class_counts'] else []
    rows = [
        [split, plain(n), *map(plain, data['class_counts'].get(split, [None] * len(classes)))]
        for split, n in data['counts'].items()
    ]
    region = REGIONS.get(results['region'], results['region'])
    return (
        f'{results["backbone"]}, trained on {data["name"]} at {data["size"]} px '
        f'({region}), preset {results["preset"]}, seed {results["seed"]}.\n\n'
        + table(['split', 'images', *classes], rows)
    )


def _test(test: dict) -> list[str]:
    balanced, chance = test['balanced_accuracy'], test['chance']
    lead = (
        f'On {plain(test["images"])} test images of {plain(test["patients"])} patients the '
        f'balanced accuracy is **{percent(balanced["value"])}** (95 % interval '
        f'{interval(balanced)}); chance is {percent(chance["balanced_accuracy"])}.'
    )
    headline = []
    for key, title, in_percent in HEADLINE:
        show = percent if in_percent else decimal
        figure = test[key]
        headline.append([
            title, show(figure['value']), interval(figure, in_percent), show(chance[key])
        ])
    return [
        lead,
        table(['figure', 'value', '95 % interval', 'chance'], headline),
        *_remarks((title.split(' (')[0], test[key]) for key, title, _ in HEADLINE),
        *_dropped(test),
        '**By class**',
        table(
            ['class', 'images', 'patients', 'accuracy', '95 % interval', 'F1', 'AUC',
             '95 % interval'],
            [_class_row(row) for row in test['per_class']],
        ),
        *_remarks(
            (f'{title} of {row["name"]}', row[key])
            for row in test['per_class']
            for key, title in (('accuracy', 'accuracy'), ('auc', 'AUC'))
        ),
        '**Confusion matrix** (rows: true class; columns: predicted; images)',
        table(
            ['true \\ predicted', *test['classes']],
            [
                [name, *(plain(n) for n in counts)]
                for name, counts in zip(test['classes'], test['confusion'], strict=True)
            ],
        ),
    ]


def _dropped(test: dict) -> list[str]:
    if not test['dropped_resamples']:
        return []
    return [
        f'In {plain(test["dropped_resamples"])} of {plain(test["resamples"])} bootstrap resamples '
        'no image of some class was drawn; the intervals that need it leave them out.'
    ]


def _class_row(row: dict) -> list[str]:
    return [
        row['name'],
        plain(row['images']),
        plain(row['patients']),
        percent(row['accuracy']['value']),
        interval(row['accuracy']),
        decimal(row['f1']['value']),
        decimal(row['auc']['value']),
        interval(row['auc'], in_percent=False),
    ]


def _remarks(figures: Iterable[tuple[str, dict]]) -> list[str]:
    """Why figures are missing or restricted, each reason once with all it concerns."""
    by_reason = {}
    for title, figure in figures:
        if figure['reason']:
            by_reason.setdefault(figure['reason'], []).append(title)
    lines = [f'- {", ".join(titles)}: {reason}.' for reason, titles in by_reason.items()]
    return ['\n'.join(lines)] if lines else []


def _attention(attention: dict) -> list[str]:
    if not attention['images']:
        return ['## Where the model looks', attention_finding(attention)]
    rows = [('all images', attention)]
    rows += [(row['name'], row) for row in attention['per_class']]
    return [
        '## Where the model looks',
        attention_finding(attention),
        table(
            ['true class', 'images', 'AIL', '95 % interval', 'lung-area fraction'],
            [
                [
                    name,
                    plain(row['images']),
                    percent(row['ail']['value']),
                    interval(row['ail']),
                    percent(row['lung_area']['value']),
                ]
                for name, row in rows
            ],
        ),
        *_remarks((name, row['ail']) for name, row in rows),
    ]


def _boxes(boxes: dict) -> list[str]:
    """Attention inside the radiologists' lesion boxes; nothing for data without any."""
    if not boxes['images']:
        return []
    share, area = boxes['box_attention'], boxes['box_area']
    return [
        '## Attention inside the lesion boxes',
        f'In the {boxes["images"]:,} test images with boxes, {percent(share["value"])} of the '
        f'positive activation lies inside them (95 % interval {interval(share)}); a uniform map '
        f'would reach {percent(area["value"])}.',
    ]


def _stages(stages: Sequence[dict]) -> list[str]:
    header = ['stage', 'epochs', 'steps', 'batch', 'learning rate', 'final loss', 'chance loss',
              'train accuracy', 'time', 'images/s', 'remarks']
    rows, notes = [], []
    for i, stage in enumerate(stages, start=1):
        metrics = stage['metrics']
        rows.append([
            f'{i} {stage["task"]} `{stage["key"][:12]}`',
            *(plain(stage[key]) for key in ('epochs', 'steps', 'batch_size', 'learning_rate')),
            decimal(metrics.get('loss')),
            decimal(metrics.get('chance_loss')),
            percent(metrics.get('accuracy')),
            duration(stage['wall_seconds']),
            plain(stage['images_per_second'], 3),
            _stage_remarks(stage),
        ])
        notes += [f'- {stage["task"]}: {note}' for note in stage['notes']]
    return [table(header, rows), '\n'.join(notes)]


def _stage_remarks(stage: dict) -> str:
    """'reused', 'resumed 2 times', or nothing."""
    times = stage['resumed']
    remarks = ['reused'] if stage['reused'] else []
    if times:
        remarks.append('resumed once' if times == 1 else f'resumed {times} times')
    return ', '.join(remarks)


def _reproduction(results: dict) -> list[str]:
    device = results['device']
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    return [
        f'```\n{results["command"]}\n```',
        '\n'.join([
            f'- data fingerprint `{results["data"]["fingerprint"]}`',
            f'- trained parameters, sha256 `{results["params_sha256"]}`',
            f'- seed {results["seed"]}; {device["count"]} × {device["kind"]}',
            f'- {versions or NOT_AVAILABLE}',
        ]),
    ]
