"""Checkpoints of a TrainState (orbax): saved in the background, restored newest first.

One process writes and reads them, as arrays that belong to no device: every process holds the whole
state, and the number of devices and of processes may change on resume. A step's folder has the
arrays by name, and `about/arrays.json` with their shapes, dtypes and hash; it gets its name when
all of it is written. As in a bundle, three things are told apart: Damaged, UserError, OSError.

    python -m cxr_jax.checkpoint inspect DIR

tells what is in one: see cxr_jax.store.inspection.
"""

import datetime
import errno
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from cxr_jax.store import trees
from cxr_jax.store.files import Damaged, exists, read_sealed, seal, set_aside
from data_pipelines.errors import UserError

ARRAYS, ABOUT, ABOUT_FILE = 'arrays', 'about', 'arrays.json'  # in a step's folder
FORMAT = 1


class Checkpoints:
    """The checkpoints of one stage directory, named by step; the two newest are kept."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self.directory = directory.resolve() / 'checkpoints'
        # What a killed process left half written; orbax would keep it.
        for leftover in self.directory.glob('*.orbax-checkpoint-tmp*'):
            shutil.rmtree(leftover, ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            create=False,
            # In the background, a folder that cannot be made would be waited for, minutes long.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            multiprocessing_options=_this_process(),
        )
        handlers = {
            ARRAYS: ocp.StandardCheckpointHandler(multiprocessing_options=_this_process()),
            ABOUT: ocp.JsonCheckpointHandler(ABOUT_FILE, multiprocessing_options=_this_process()),
        }
        self._manager = ocp.CheckpointManager(
            self.directory, item_handlers=handlers, options=options
        )

    def save(self, state, wait: bool = False) -> None:
        """Writes the state under its step; returns when the arrays are copied (`wait`: written).

        A step that is already there is kept as it is: states are a pure function of the step.
        """
        step = int(state.step)
        if sorted(self._manager.all_steps()) != saved_steps(self.directory):
            # One is under way, or has failed: orbax would count it, and delete an older one for it.
            self._manager.wait_until_finished()
            self._manager.reload()
        if step not in saved_steps(self.directory):
            arrays = trees.by_name(jax.device_get(trees.as_dict(state)))
            contents = {
                ARRAYS: ocp.args.StandardSave(arrays),
                ABOUT: ocp.args.JsonSave(_about(step, arrays)),
            }
            self._manager.save(step, args=ocp.args.Composite(**contents), force=True)
        if wait:
            self._manager.wait_until_finished()

    def restore(self, like):
        """Newest intact state in NumPy arrays, None if there is none; `like`: its abstract arrays.

        A checkpoint that is damaged is set aside as <step>.broken. UserError for one of a state
        with other arrays, which this version cannot go on with.
        """
        for step in reversed(saved_steps(self.directory)):
            path = self.directory / str(step)
            try:
                arrays = read_arrays(path, trees.as_dict(like))
            except Damaged as error:
                logging.warning('Checkpoint %s is set aside. %s', path, error)
                set_aside(path)
                continue
            return like.replace(**trees.like_tree(arrays, trees.as_dict(like)))
        return None

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.close()


def saved_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in a folder, ascending; one half written has no such name."""
    names = os.listdir(folder) if exists(folder) else []
    return sorted(int(name) for name in names if name.isdecimal())


def read_about(step: pathlib.Path) -> dict:
    """{'step', 'written', 'arrays': {name: [shape, dtype]}, 'arrays_sha256'} of a step's folder."""
    path = step / ABOUT / ABOUT_FILE
    try:
        return read_sealed(path, FORMAT)
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f'{step} is damaged: {ABOUT}/{ABOUT_FILE} is missing.') from None


def read_arrays(step: pathlib.Path, like: dict) -> dict[str, np.ndarray]:
    """The arrays of a step's folder by name; UserError if they are not those of the tree `like`."""
    about = read_about(step)
    wanted, found = trees.leaf_table(like), about['arrays']
    found = {name: (tuple(shape), dtype) for name, (shape, dtype) in found.items()}
    differences = trees.table_differences(found, wanted, 'it', 'this version')
    if differences:
        raise UserError(
            f'The checkpoint {step} is of a training state with other arrays; {len(differences)} '
            'differ (name: shape, dtype). Go on with the version of cxr_jax and the packages that '
            f'wrote it, or delete {step.parents[1]}, and the stage starts anew.\n'
            + '\n'.join(differences)
        )
    arrays = _decode(step, {name: np.empty(*leaf) for name, leaf in found.items()})
    if trees.sha256(arrays) != about['arrays_sha256']:
        raise Damaged(f'{step} is damaged: its arrays are not those that were saved.')
    return arrays


def _decode(step: pathlib.Path, like: dict) -> dict[str, np.ndarray]:
    """What orbax reads; Damaged if the content is at fault, an OSError if the system is."""
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_this_process()) as checkpointer:
            return checkpointer.restore(step.resolve() / ARRAYS, like)
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # orbax and tensorstore raise many types for broken files
        reason = error
    # tensorstore has what the system said in its text alone.
    told = re.search(r"(?:OS error |os_error_code=')(\d+)", str(reason))
    if told and int(told[1]) not in (errno.ENOENT, errno.ENOTDIR):
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(step))
    _read_all(step)
    words = str(reason).partition('\n')[0] or type(reason).__name__
    raise Damaged(f'{step} is damaged: {words}.') from reason


def _read_all(folder: pathlib.Path) -> None:
    """Reads every byte in a folder: an OSError if the system cannot."""
    for path in folder.rglob('*'):
        if path.is_file():
            path.read_bytes()


def _about(step: int, arrays: dict[str, np.ndarray]) -> dict:
    now = datetime.datetime.now(datetime.UTC)
    return seal({
        'format': FORMAT,
        'step': step,
        'written': f'{now:%Y-%m-%d %H:%M} UTC',
        'arrays': trees.leaf_table(arrays),
        'arrays_sha256': trees.sha256(arrays),
    })  # fmt: skip


def _this_process() -> ocp.options.MultiprocessingOptions:
    """Orbax options that keep it from waiting for the other processes."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
