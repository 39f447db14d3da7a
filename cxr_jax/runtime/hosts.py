"""What the processes of one run agree on. Files are the first process's affair; the rest are told.

With one process every function here just calls what it is given. With several, all of them call
the same functions in the same order, as they run the same program.
"""

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.errors import UserError

GOODBYE_SECONDS = 2.0


def connect(address: str | None, number: int | None, index: int | None) -> None:
    """Joins the other processes; None is found out from the cluster (TPU pod, Slurm, Open MPI)."""
    # Its handler of SIGTERM would replace cxr_jax.runtime.interrupt's.
    jax.config.update('jax_enable_preemption_service', False)
    try:
        jax.distributed.initialize(address, number, index)
    except ValueError as error:
        raise UserError(
            f'How to find the other processes is not known ({error}). On a TPU pod, in a '
            'Slurm step and under mpirun --distributed is enough; elsewhere start every process '
            'with --distributed --coordinator_address=HOST:PORT --num_processes=N --process_id=I, '
            'HOST being where process 0 runs.'
        ) from None


def connected() -> bool:
    """Whether this run was started over several processes."""
    return jax.distributed.is_initialized()


def leave(code: int) -> None:
    """Ends this process after a failure; the others may be waiting for it and never end."""
    sys.stdout.flush()
    sys.stderr.flush()
    if not connected():
        sys.exit(code)
    if is_first():
        # Its end ends the others at once, who may have the same to tell.
        time.sleep(GOODBYE_SECONDS)
    os._exit(code)  # an orderly shutdown would wait for all of them


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return jax.process_index() == 0


def on_first(function: Callable, *arguments):
    """Calls `function` in the first process; its result, or its exception, in all of them."""
    if jax.process_count() == 1:
        return function(*arguments)
    result = raised = None
    if is_first():
        try:
            result = function(*arguments)
        except Exception as error:
            raised = error
    result, told = _broadcast((result, raised))
    if raised or told:
        raise raised or told
    return result


def first_only(make: Callable, *arguments):
    """`make(*arguments)` in the first process; elsewhere an object whose methods do nothing."""
    return make(*arguments) if is_first() else _Silent()


@contextlib.contextmanager
def first_holds(context):
    """Enters `context` in the first process, on behalf of all; they share what it raises."""
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(context) and None)
        yield


def agree(raised: bool, now: bool = True) -> bool:
    """Whether a flag is up in any process; several processes ask each other only where `now`."""
    if jax.process_count() == 1:
        return raised
    return now and bool(multihost_utils.process_allgather(np.bool_(raised)).any())


def gather(value) -> list:
    """Every process's `value`, in their order."""
    if jax.process_count() == 1:
        return [value]
    own = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.int64(len(own)))
    padded = np.zeros(_room(lengths.max()), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded)
    return [
        pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)
    ]


def same(value) -> bool:
    """Whether all processes have the same `value`."""
    first, *others = gather(value)
    return all(other == first for other in others)


class _Silent:
    def __getattr__(self, name):
        return lambda *arguments, **named: None


def _broadcast(value):
    """The first process's `value`, as bytes: a sum of floats would lose the sign of zero."""
    data = np.zeros(0, np.uint8)
    if is_first():
        try:
            data = np.frombuffer(pickle.dumps(value), np.uint8)
        except Exception:  # exceptions of libraries may hold what cannot be sent
            data = np.frombuffer(pickle.dumps((None, RuntimeError(repr(value[1])))), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int64(len(data))))
    padded = np.zeros(_room(length), np.uint8)
    padded[: len(data)] = data
    return pickle.loads(multihost_utils.broadcast_one_to_all(padded)[:length].tobytes())


def _room(length: int) -> int:
    """The next power of two: every other size would be compiled anew."""
    return 1 << (int(length) - 1).bit_length()
