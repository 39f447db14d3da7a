"""What a stage left or holds, and where it comes from, read from its files alone.

    python -m cxr_jax.checkpoint inspect DIR

DIR: a stage's folder (finished: its bundle; unfinished: its newest checkpoint), a copy of a bundle,
a folder of checkpoints, one step's, or the workdir of a run; of a URL a stage's folder or a
workdir. No device is touched and no array is read.
"""

import os
import pathlib
import re
import sys
from collections.abc import Iterator

from cxr_jax.store.arrays import Leaf
from cxr_jax.store.bundle import BUNDLE, read_description, read_tables
from cxr_jax.store.checkpoint import ABOUT, read_about, saved_steps
from cxr_jax.store.files import exists, read_json
from cxr_jax.store.stages import SESSIONS
from data_pipelines.errors import UserError
from data_pipelines.storage import places, units

USAGE = 'python -m cxr_jax.checkpoint inspect DIR'
STAGE_FOLDER = re.compile(r'(?P<name>\w+)-(?P<key>[0-9a-f]{16})(?P<state>\.partial|\.broken.*)?')
RUN_FILE = 'run.json'  # of a workdir


def main(argv: list[str]) -> int:
    """The command of this module's docstring, `argv` without the program's name: exit code."""
    try:
        if len(argv) != 2 or argv[0] != 'inspect':
            raise UserError(f'{" ".join(argv)!r} is not understood; the command is {USAGE}.')
        print(describe(places.local(argv[1])), flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f'{error.filename} cannot be read ({error.strerror}).', file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head`: what is left would be flushed at exit, and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def describe(path: pathlib.Path) -> str:
    """The bundle or the checkpoint that `path` names, as text; UserError without one."""
    path = find_stage(path.resolve())
    return _describe_bundle(path) if exists(path / BUNDLE) else _describe_step(find_step(path))


def _describe_bundle(folder: pathlib.Path) -> str:
    description, tables = read_description(folder), read_tables(folder)
    leaves = {f'{part}/{k}': leaf for part, table in tables.items() for k, leaf in table.items()}
    hashes = [(part, told['sha256']) for part, told in sorted(description['parts'].items())]
    kept = saved_steps(folder / 'checkpoints')
    return '\n'.join([
        f'Bundle {folder}',
        *([f'Checkpoints were kept: steps {", ".join(map(str, kept))}'] if kept else []),
        *_chain_lines(folder),
        '',
        *_table(list(_figures(description)), right=()),
        '',
        *_table([('part', 'SHA-256'), *hashes], right=()),
        '',
        *_array_lines(leaves),
    ])  # fmt: skip


def _describe_step(step: pathlib.Path) -> str:
    about = read_about(step)
    leaves = {name: Leaf(tuple(shape), dtype) for name, (shape, dtype) in about['arrays'].items()}
    others = [str(other) for other in saved_steps(step.parent) if other != about['step']]
    stage = next((path for path in step.parents if STAGE_FOLDER.fullmatch(path.name)), None)
    return '\n'.join([
        f'Checkpoint {step}',
        f'Step {about["step"]}, written {about["written"]}; other steps there: '
        f'{", ".join(others) or "none"}',
        f'SHA-256 of the arrays: {about["arrays_sha256"]}',
        *(_chain_lines(stage, about['step']) if stage else []),
        '',
        *_array_lines(dict(sorted(leaves.items()))),
    ])  # fmt: skip


def find_step(path: pathlib.Path) -> pathlib.Path:
    """Folder of the one checkpoint that `path` names, the newest of several; else UserError."""
    if exists(path / ABOUT):
        return path
    folder = path if path.name == 'checkpoints' else path / 'checkpoints'
    steps = saved_steps(folder)
    if not steps:
        raise UserError(
            f"{path} holds neither a bundle nor a checkpoint. Name a stage's folder (<name>-<key>, "
            'with or without .partial, in the folder `stages` beside the runs), its `checkpoints`, '
            "the folder of one step, a copy of a bundle, or a run's workdir."
        )
    return folder / str(steps[-1])


def stage_chain(stage: pathlib.Path) -> list[tuple[str, str, dict | None]]:
    """(name, key, description) of the stage in a folder and of its parents in the same store.

    The description is None where there is no bundle: a stage gets it when it is finished.
    """
    match, chain = STAGE_FOLDER.fullmatch(stage.name), []
    if not match:  # a bundle that was copied elsewhere
        description = read_description(stage)
        return [(stage.name, description.get('key', ''), description)]
    name, key = match['name'], match['key']
    while True:
        description = read_description(stage) if exists(stage / BUNDLE) else None
        chain.append((name, key, description))
        known = description
        if not known and exists(stage / SESSIONS):
            known = read_json(stage / SESSIONS)
        key = (known or {}).get('parent_key')
        if not key:
            return chain
        folders = _stages(stage.parent, f'*-{key}')
        if not folders:
            return [*chain, ('?', key, None)]
        stage = folders[0]
        name = stage.name.removesuffix(f'-{key}')


def _chain_lines(stage: pathlib.Path, step: int | None = None) -> list[str]:
    rows = []
    for number, (name, key, description) in enumerate(stage_chain(stage)):
        arrow = '<- ' if number else ''
        if description:
            told = ', '.join(
                f'{word} {description[entry]:g}'
                for entry, word in (
                    ('steps', 'steps'), ('batch_size', 'batch size'), ('learning_rate', 'rate'),
                )
                if isinstance(description.get(entry), int | float)
            )  # fmt: skip
            rows.append((arrow + name, key, 'finished', told))
        elif number:
            rows.append((arrow + name, key, 'not in this store', ''))
        else:
            rows.append((name, key, 'unfinished', f'step {step}'))
    return ['', 'Stages, the last one first:', *_table(rows, right=())]


def _figures(description: dict, prefix: str = '') -> Iterator[tuple[str, str]]:
    """(name, value) of all that is one number or text, also in the sections."""
    for name, value in description.items():
        if isinstance(value, dict) and name != 'parts':
            yield from _figures(value, f'{prefix}{name}.')
        elif isinstance(value, str | int | float) and f'{prefix}{name}' != 'sha256':
            yield prefix + name, str(value)


def _array_lines(leaves: dict[str, Leaf]) -> list[str]:
    return [
        *_table(_totals(leaves)),
        '',
        *_table([
            ('array', 'shape', 'dtype', 'bytes'),
            *((k, str(list(x.shape)), x.dtype, f'{x.nbytes:,}') for k, x in leaves.items()),
        ]),
    ]  # fmt: skip


def _totals(leaves: dict[str, Leaf]) -> list[tuple[str, ...]]:
    """Rows of every top-level entry, of what stands below it by name, and of all."""
    groups = {}
    for name, leaf in leaves.items():
        entry, *inner = name.split('/')
        groups.setdefault((entry, ''), []).append(leaf)
        if inner and entry != 'opt_state':
            groups.setdefault((entry, inner[0]), []).append(leaf)
    groups['total', ''] = list(leaves.values())
    rows = [('part', 'arrays', 'elements', 'bytes')]
    for (entry, inner), own in groups.items():
        sums = len(own), sum(leaf.size for leaf in own), sum(leaf.nbytes for leaf in own)
        rows.append((f'  {inner}' if inner else entry, *(f'{value:,}' for value in sums)))
    return rows


def _table(rows: list[tuple[str, ...]], right: tuple[int, ...] = (1, 2, 3)) -> list[str]:
    """Rows as lines with aligned columns, those of `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _stages(store: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Stages of a store whose folder's name matches, brought from its URL if it has one."""
    for path in units.find(store, f'{pattern}/{SESSIONS}'):
        units.pull(store / path.parent, BUNDLE)
    return sorted(store.glob(pattern))


def find_stage(path: pathlib.Path) -> pathlib.Path:
    """The folder of a stage: `path`, or of a run's workdir the last stage's, out of the nearest
    store that has it; UserError where there is none."""
    units.pull(path, BUNDLE)
    workdir = path.resolve()
    if not (workdir / RUN_FILE).is_file():
        return path
    key = read_json(workdir / RUN_FILE).get('last_stage')
    at_url = bool(places.url_of(workdir))
    for folder in workdir.parents:
        for suffix in ('', '.partial') if bool(places.url_of(folder)) == at_url else ():
            for found in _stages(folder / 'stages', f'*-{key}{suffix}'):
                return found
    raise UserError(
        f'The last stage of the run {workdir} ({key}) is in no folder `stages` above it: it was '
        'not reached yet, or --config.store says another place. Name the folder of a stage.'
    )
