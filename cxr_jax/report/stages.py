"""The stages of a run: how they were trained, and on which images."""

from collections.abc import Callable, Sequence

from cxr_jax.report.blocks import Block, Items, Table, Text, code, literal, table
from cxr_jax.report.cautions import own_loss, stage_title
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

# Key of each number of images left out -> its title.
LEFT_OUT = {
    'images': 'left out', 'same_patient': 'same patient', 'same_content': 'same content',
}  # fmt: skip
WHY_LEFT_OUT = (
    'Left out of the data of a stage is every image whose patient (or study), or whose very '
    'content, is in the validation or test data.'
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
        'final loss': lambda stage: decimal(own_loss(stage['metrics'])),
        'chance loss': lambda stage: decimal(stage['metrics'].get('chance_loss')),
        'train accuracy': lambda stage: percent(stage['metrics'].get('accuracy')),
        'distillation': lambda stage: (
            decimal(stage['metrics']['distil_loss']) if 'distil_loss' in stage['metrics'] else '-'
        ),
        'time': lambda stage: duration(stage['wall_seconds']),
        'images/s': lambda stage: plain(stage['images_per_second'], 3),
        'remarks': _remarks,
    }
    if not any('distil_loss' in stage['metrics'] for stage in stages):
        del told['distillation']
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
    """The images of each stage, and what had to be left out of them (where that was looked for)."""
    data = [stage['data'] for stage in results['stages']]
    columns = {
        'sets': [listed(literal(part['name']) for part in each['sets']) for each in data],
        'images': [plain(each['images']) for each in data],
        'patients': [plain(each['patients']) for each in data],
    }
    looked = any(each['left_out'] for each in data)
    if looked:
        for key, title in LEFT_OUT.items():
            columns[title] = [plain(each['left_out'][key]) if each['left_out'] else '-'
                              for each in data]  # fmt: skip
    columns['drawn'] = [
        'uniformly' if each['balance'] == 'none' else f'by {literal(each["balance"])}'
        for each in data
    ]
    header, *names = _names(results)
    rows = zip(names, *columns.values(), strict=True)
    found = table(
        [*header, *columns], [[*first, *rest] for first, *rest in rows], 'Data of the stages'
    )
    return [found, *([Text(WHY_LEFT_OUT)] if looked else [])]


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
