"""The stages of a run: how they were trained, and on which images."""

from collections.abc import Callable, Sequence

from cxr_jax.report.blocks import Block, Items, Table, Text, code, literal, table
from cxr_jax.report.cautions import stage_title
from cxr_jax.report.formats import (
    NOT_AVAILABLE,
    decimal,
    disk,
    duration,
    is_known,
    listed,
    percent,
    plain,
)

LEFT_OUT = (
    'Left out of the data of a stage are images whose patient (or study), or whose very content, '
    'is in the validation or test data.'
)


def stage_blocks(results: dict) -> list[Block]:
    """Table, notes, data and disk."""
    notes = tuple(
        f'{stage_title(stage)}: {literal(note)}'
        for stage in results['stages']
        for note in stage['notes']
    )
    return [
        stage_table(results), *([Items(notes)] if notes else []), *data_blocks(results),
        *disk_blocks(results),
    ]  # fmt: skip


def stage_table(results: dict) -> Table:
    """How each stage was trained."""
    stages = results['stages']
    names = _names(results)
    told: dict[str, Callable[[dict], str]] = {
        'epochs': lambda stage: plain(stage['epochs']),
        'steps': lambda stage: plain(stage['steps']),
        'batch': lambda stage: plain(stage['batch_size']),
        'learning rate': lambda stage: plain(stage['learning_rate']),
        'final loss': lambda stage: decimal(stage['metrics'].get('loss')),
        'chance loss': lambda stage: decimal(stage['metrics'].get('chance_loss')),
        'train accuracy': lambda stage: percent(stage['metrics'].get('accuracy')),
        'time': lambda stage: duration(stage['wall_seconds']),
        'images/s': lambda stage: plain(stage['images_per_second'], 3),
        'remarks': _remarks,
    }
    short = {name: told[name] for name in ('epochs', 'steps', 'batch')}
    short |= {
        'rate': lambda stage: plain(stage['learning_rate'], 3),
        'loss': told['final loss'],
        'chance': told['chance loss'],
        'time': lambda stage: 'reused' if stage['reused'] else duration(stage['wall_seconds']),
        'images/s': told['images/s'],
    }

    def with_columns(first: Sequence[Sequence[str]], columns: dict, **more) -> Table:
        rows = [
            [*cells, *(show(stage) for show in columns.values())]
            for cells, stage in zip(first[1:], stages, strict=True)
        ]
        return table([*first[0], *columns], rows, **more)

    first = [names[0]]
    for (name, *fold), stage in zip(names[1:], stages, strict=True):
        first.append([f'{_number(results, stage)}{name} {code(stage["key"][:12])}', *fold])
    return with_columns(first, told, short=with_columns(names, short))


def _names(results: dict) -> list[list[str]]:
    """Header and first cells of each stage: its name and, if there are folds, its fold."""
    if not results['folds']:
        return [['stage'], *([literal(stage['stage'])] for stage in results['stages'])]
    return [
        ['stage', 'fold'],
        *(
            [literal(stage['stage']), 'all' if stage['fold'] is None else plain(stage['fold'] + 1)]
            for stage in results['stages']
        ),
    ]


def _number(results: dict, stage: dict) -> str:
    """'2 ' of the second one of the curriculum."""
    curriculum = results['curriculum']
    name = stage['stage']
    return f'{curriculum.index(name) + 1} ' if name in curriculum else ''


def _remarks(stage: dict) -> str:
    """'reused', 'resumed 2 times', or nothing."""
    times = stage['resumed']
    remarks = ['reused'] if stage['reused'] else []
    if times:
        remarks.append('resumed once' if times == 1 else f'resumed {times} times')
    return ', '.join(remarks)


def data_blocks(results: dict) -> list[Block]:
    """The images of each stage, and what had to be left out of them."""
    rows = [
        [*cells, *_data_cells(stage['data'])]
        for cells, stage in zip(_names(results)[1:], results['stages'], strict=True)
    ]
    header = ['sets', 'images', 'patients', 'left out', 'same patient', 'same content', 'drawn']
    left_out = any((stage['data']['left_out'] or {}).get('images') for stage in results['stages'])
    found = table([*_names(results)[0], *header], rows, title='Data of the stages')
    return [found, *([Text(LEFT_OUT)] if left_out else [])]


def _data_cells(data: dict) -> list[str]:
    left_out = data['left_out'] or {}
    keys = ('images', 'same_patient', 'same_content')
    balance = data['balance']
    return [
        listed(literal(part['name']) for part in data['sets']),
        plain(data['images']),
        plain(data['patients']),
        *(plain(left_out[key]) if key in left_out else '-' for key in keys),
        'as stored' if balance == 'none' else f'by {literal(balance)}',
    ]


def disk_blocks(results: dict) -> list[Block]:
    """What is kept on disk, if that is known."""
    if not is_known(results['bytes']):
        return []
    return [Text(f'The folders of the finished stages take {disk(results["bytes"])} on disk.')]


def left_behind(results: dict) -> str:
    """Where a run without a readout left its networks."""
    where = listed(code(path) for path in results['bundles']) or NOT_AVAILABLE
    return (
        'This run ends without a readout: no image was tested. It leaves the networks of its last '
        f'stage, {literal(results["curriculum"][-1])}, as a bundle in {where}.'
    )
