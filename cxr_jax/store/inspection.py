"""What a checkpoint holds and where its stage comes from, read from its files alone.

    python -m cxr_jax.checkpoint inspect DIR

DIR: a stage's folder, its `checkpoints`, one step's folder, or the workdir of a run. No device is
touched and no array is read.
"""

import dataclasses
import datetime
import json
import math
import os
import pathlib
import re
import sys

import numpy as np
import tensorstore

from cxr_jax.store.stages import MANIFEST, SESSIONS
from data_pipelines.errors import UserError

USAGE = 'python -m cxr_jax.checkpoint inspect DIR'
STAGE_FOLDER = re.compile(r'(?P<task>\w+)-(?P<key>[0-9a-f]{16})(?P<unfinished>\.\w+)?')
TREE_FILE = pathlib.Path('default', '_METADATA')
SAVE_FILE = '_CHECKPOINT_METADATA'
RUN_FILE = 'run.json'  # of a workdir


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Shape and dtype of one array, over all devices and processes that wrote it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


def main(argv: list[str]) -> int:
    """The command of this module's docstring, `argv` without the program's name: exit code."""
    try:
        if len(argv) != 2 or argv[0] != 'inspect':
            raise UserError(f'{" ".join(argv)!r} is not understood; the command is {USAGE}.')
        print(describe(pathlib.Path(argv[1])), flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head`: what is left would be flushed at exit, and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def describe(path: pathlib.Path) -> str:
    """The checkpoint in `path`, the newest of several, as text; UserError without one."""
    step = find_step(path)
    leaves = read_tree(step)
    saved = _read_json(step / SAVE_FILE)
    written = datetime.datetime.fromtimestamp(saved['commit_timestamp_nsecs'] / 1e9, datetime.UTC)
    digest = (saved['custom_metadata'] or {}).get('sha256', 'not stored')
    others = ', '.join(str(other) for other in _steps(step.parent) if other != _number(step))
    stage = _stage_folder(step)
    return '\n'.join([
        f'Checkpoint {step}',
        f'Step {_number(step)}, written {written:%Y-%m-%d %H:%M} UTC; other steps there: '
        f'{others or "none"}',
        f'SHA-256 of the arrays: {digest}',
        *(['', 'Stages, the last one first:', *_chain_lines(stage, step)] if stage else []),
        '',
        *_table(_totals(leaves)),
        '',
        *_table([
            ('array', 'shape', 'dtype', 'bytes'),
            *((k, str(list(x.shape)), x.dtype, f'{x.nbytes:,}') for k, x in leaves.items()),
        ]),
    ])  # fmt: skip


def find_step(path: pathlib.Path) -> pathlib.Path:
    """Folder of the one step that `path` names; UserError where there is none."""
    path = path.resolve()
    if (path / TREE_FILE).is_file() and path.name.partition('.')[0].isdecimal():
        return path
    if (path / RUN_FILE).is_file():
        path = _last_stage(path)
    folder = path if path.name == 'checkpoints' else path / 'checkpoints'
    steps = _steps(folder)
    if not steps:
        raise UserError(
            f"{path} holds no checkpoint. Name a stage's folder (<task>-<key>, with or without "
            '.partial, in the folder `stages` beside the runs), its `checkpoints`, the folder of '
            "one step, or a run's workdir."
        )
    return folder / str(steps[-1])


def read_tree(step: pathlib.Path) -> dict[str, Leaf]:
    """{'params/backbone/conv1/kernel': Leaf} of the checkpoint in the folder `step`."""
    # Orbax's own readers ask for the devices, and its description has the shapes of one process's
    # part and no dtypes; the arrays' own descriptions (Zarr, version 2) have both.
    entries = _read_json(step / TREE_FILE)['tree_metadata'].values()
    names = [
        [key['key'] for key in entry['key_metadata']]
        for entry in entries
        if not entry['value_metadata']['skip_deserialize']  # empty nodes
    ]
    try:
        base = {'driver': 'file', 'path': f'{step / "default"}/'}
        store = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': base}).result()
        found = [store.read('.'.join(keys) + '/.zarray') for keys in names]
        arrays = [json.loads(read.result().value) for read in found]
    except (ValueError, OSError) as error:
        raise UserError(
            f'The checkpoint {step} is damaged ({str(error).partition(chr(10))[0]}). A run that '
            'finds it so sets it aside and goes on from the one before.'
        ) from None
    leaves = {
        '/'.join(keys): Leaf(tuple(array['shape']), np.dtype(array['dtype']).name)
        for keys, array in zip(names, arrays, strict=True)
    }
    return dict(sorted(leaves.items()))


def stage_chain(stage: pathlib.Path) -> list[tuple[str, str, dict | None]]:
    """(task, key, manifest) of the stage in a folder and of its parents in the same store.

    The manifest is None where it is not there: a stage gets it when it is finished.
    """
    match = STAGE_FOLDER.fullmatch(stage.name)
    task, key, chain = match['task'], match['key'], []
    while True:
        path = stage / MANIFEST
        manifest = _read_json(path) if path.is_file() else None
        chain.append((task, key, manifest))
        known = manifest
        if not known and (stage / SESSIONS).is_file():
            known = _read_json(stage / SESSIONS)
        key = (known or {}).get('parent_key')
        if not key:
            return chain
        folders = sorted(stage.parent.glob(f'*-{key}'))
        if not folders:
            return [*chain, ('?', key, None)]
        stage = folders[0]
        task = stage.name.removesuffix(f'-{key}')


def _chain_lines(stage: pathlib.Path, step: pathlib.Path) -> list[str]:
    rows = []
    for number, (task, key, manifest) in enumerate(stage_chain(stage)):
        arrow = '<- ' if number else ''
        if manifest:
            facts = f'{manifest["steps"]} steps of {manifest["batch_size"]} images, finished'
            rows.append((arrow + task, key, f'rate {manifest["learning_rate"]:g}', facts))
        elif number:
            rows.append((arrow + task, key, '', 'not in this store'))
        else:
            rows.append((task, key, '', f'unfinished, at step {_number(step)}'))
    return _table(rows, right=())


def _totals(leaves: dict[str, Leaf]) -> list[tuple[str, ...]]:
    """Rows of every top-level part, of what stands below it by name, and of all."""
    groups = {}
    for name, leaf in leaves.items():
        part, *inner = name.split('/')
        groups.setdefault((part, ''), []).append(leaf)
        if part in ('params', 'batch_stats', 'extra'):
            groups.setdefault((part, inner[0]), []).append(leaf)
    groups['total', ''] = list(leaves.values())
    rows = [('part', 'arrays', 'elements', 'bytes')]
    for (part, inner), own in groups.items():
        sums = len(own), sum(leaf.size for leaf in own), sum(leaf.nbytes for leaf in own)
        rows.append((f'  {inner}' if inner else part, *(f'{value:,}' for value in sums)))
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


def _steps(folder: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, ascending."""
    found = folder.glob(f'*/{TREE_FILE}')
    return sorted(int(path.parents[1].name) for path in found if path.parents[1].name.isdecimal())


def _number(step: pathlib.Path) -> int:
    """The step of a checkpoint's folder, which is `<step>.broken` once it was set aside."""
    return int(step.name.partition('.')[0])


def _stage_folder(step: pathlib.Path) -> pathlib.Path | None:
    """The stage that a checkpoint belongs to; its trials lie within its folder."""
    return next((path for path in step.parents if STAGE_FOLDER.fullmatch(path.name)), None)


def _last_stage(workdir: pathlib.Path) -> pathlib.Path:
    """The last stage's folder of a run, out of the nearest store that has it."""
    key = _read_json(workdir / RUN_FILE)['last_stage']
    for folder in workdir.parents:
        for suffix in ('', '.partial'):
            for found in folder.glob(f'stages/*-{key}{suffix}'):
                return found
    raise UserError(
        f'The last stage of the run {workdir} ({key}) is in no folder `stages` above it: it was '
        'not reached yet, or --config.store says another place. Name the folder of a stage.'
    )


def _read_json(path: pathlib.Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}).') from None
