"""Checkpoints of a TrainState (orbax): saved in the background, restored newest first."""

import pathlib

import orbax.checkpoint as ocp
from absl import logging

from cxr_jax.state import as_dict


class Checkpoints:
    """The checkpoints of one stage directory, named by step; the two newest are kept."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self.directory = directory.resolve() / 'checkpoints'
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, state, wait: bool = False) -> None:
        """Writes the state under its step; returns when the arrays are copied (`wait`: written).

        A step that is already there is kept as it is: states are a pure function of the step.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(as_dict(state)))
        if wait:
            self._manager.wait_until_finished()

    def restore(self, like):
        """Newest readable state, None if there is none; `like`: its jax.ShapeDtypeStructs."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = restore_tree(self.directory / str(step) / 'default', as_dict(like))
            except Exception as error:  # orbax and tensorstore raise many types for broken files
                logging.warning(
                    'Checkpoint %s cannot be read and is left out: %s',
                    self.directory / str(step),
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                )
                self._manager.delete(step)
                continue
            return like.replace(**restored)
        return None

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def restore_tree(path: pathlib.Path, like: dict) -> dict:
    """Arrays of the checkpoint folder `path` with the shapes, dtypes and shardings of `like`."""

    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.resolve(), like)

