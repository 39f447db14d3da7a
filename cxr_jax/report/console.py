"""The result as an aligned table of less than 100 columns for the console, in plain ASCII."""

import textwrap
from collections.abc import Sequence

from cxr_jax.report.findings import cautions
from cxr_jax.report.formats import decimal, duration, interval, percent, plain

WIDTH = 98
_NAME_WIDTH = 18  # with it no table is wider than WIDTH


def format_table(results: dict) -> str:
    """Stages, test figures, classes and cautions of a run; the dict is that of write_report."""
    data = results['data']
    title = f'{results["name"]}: {" -> ".join(results["curriculum"])}'
    setting = (
        f'{data["name"]}, {data["size"]} px, {results["region"]}, preset {results["preset"]}, '
        f'seed {results["seed"]}'
    )
    blocks = [f'{_wrap(title)}\n{_wrap(setting)}', _stages(results['stages'])]
    if results['test']:
        blocks += [_headline(results), _classes(results)]
    blocks.append('\n'.join(_wrap(f'! {text}', indent='  ') for text in cautions(results)))
    text = '\n\n'.join(block for block in blocks if block)
    return text.encode('ascii', 'replace').decode()


def _wrap(text: str, indent: str = '') -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent)


def _align(rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right, two blanks between."""
    rows = [[_short(row[0]), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def _short(text: str) -> str:
    return text if len(text) <= _NAME_WIDTH else text[: _NAME_WIDTH - 2] + '..'


def _stages(stages: Sequence[dict]) -> str:
    rows = [['stage', 'epochs', 'steps', 'batch', 'rate', 'loss', 'chance', 'time', 'images/s']]
    for stage in stages:
        rows.append([
            stage['task'],
            *(plain(stage[key], 3) for key in ('epochs', 'steps', 'batch_size', 'learning_rate')),
            decimal(stage['metrics'].get('loss')),
            decimal(stage['metrics'].get('chance_loss')),
            'reused' if stage['reused'] else duration(stage['wall_seconds']),
            plain(stage['images_per_second'], 3),
        ])
    return _align(rows)


# Parts of the results that tell where the model looks; what a uniform map would reach is "chance".
INSIDE = (
    ('attention', 'AIL vs lung area', 'ail', 'lung_area'),
    ('boxes', 'in boxes vs area', 'box_attention', 'box_area'),
)


def _headline(results: dict) -> str:
    test = results['test']
    rows = [['test images', 'value', '95 % interval', 'chance']]
    figures = (('balanced accuracy', 'balanced_accuracy', True), ('macro-F1', 'macro_f1', False),
               ('macro-AUC', 'macro_auc', False), ('accuracy', 'accuracy', True))
    for title, key, in_percent in figures:
        show = percent if in_percent else decimal
        rows.append([
            title,
            show(test[key]['value']),
            interval(test[key], in_percent),
            show(test['chance'][key]),
        ])
    for part, title, share, area in INSIDE:
        figures = results[part]
        if figures and figures['images']:
            rows.append([title, percent(figures[share]['value']), interval(figures[share]),
                         percent(figures[area]['value'])])
    return _align(rows)


def _classes(results: dict) -> str:
    rows = [['class', 'images', 'accuracy', '95 % interval', 'F1', 'AUC', 'AIL']]
    test, attention = results['test'], results['attention']
    ail = [row['ail']['value'] for row in attention['per_class']] if attention else None
    for c, row in enumerate(test['per_class']):
        rows.append([
            row['name'],
            plain(row['images']),
            percent(row['accuracy']['value']),
            interval(row['accuracy']),
            decimal(row['f1']['value']),
            decimal(row['auc']['value']),
            percent(ail[c] if ail else None),
        ])
    return _align(rows)
