"""Checkpoints of a TrainState (orbax): saved in the background, restored newest first.

One process writes and reads them, as arrays that belong to no device: every process holds the whole
state, and the number of devices and of processes may change on resume.

    python -m cxr_jax.checkpoint inspect DIR

tells what is in one: see cxr_jax.store.inspection.
"""

import os
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from cxr_jax.store.trees import as_dict, sha256


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
            multiprocessing_options=_this_process(),
        )
        self._manager = ocp.CheckpointManager(
            self.directory, item_handlers=ocp.StandardCheckpointHandler(), options=options
        )

    def save(self, state, wait: bool = False) -> None:
        """Writes the state under its step; returns when the arrays are copied (`wait`: written).

        A step that is already there is kept as it is: states are a pure function of the step.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            tree = jax.device_get(as_dict(state))
            # Orbax notices a file cut short, but not a changed bit in an array.
            digest = {'sha256': sha256(tree)}
            self._manager.save(step, args=ocp.args.StandardSave(tree), custom_metadata=digest)
        if wait:
            self._manager.wait_until_finished()

    def restore(self, like):
        """Newest intact state in NumPy arrays, None if there is none; `like`: its abstract arrays.

        A checkpoint that is not intact is set aside as <step>.broken.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            path = self.directory / str(step)
            try:
                restored = restore_tree(path / 'default', as_dict(like))
                saved = self._manager.metadata(step).custom_metadata.get('sha256')
                if sha256(restored) != saved:
                    raise ValueError('its arrays are not those that were saved')
            except Exception as error:  # orbax and tensorstore raise many types for broken files
                logging.warning(
                    'Checkpoint %s cannot be used and is set aside: %s',
                    path,
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                )
                broken = path.with_name(f'{step}.broken')
                shutil.rmtree(broken, ignore_errors=True)
                os.rename(path, broken)
                self._manager.reload()
                continue
            return like.replace(**restored)
        return None

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.close()


def restore_tree(path: pathlib.Path, like: dict) -> dict:
    """NumPy arrays of the checkpoint folder `path`, with the shapes and dtypes of `like`."""
    like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    with ocp.StandardCheckpointer(multiprocessing_options=_this_process()) as checkpointer:
        return checkpointer.restore(path.resolve(), like)


def _this_process() -> ocp.options.MultiprocessingOptions:
    """Orbax options that keep it from waiting for the other processes."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})

