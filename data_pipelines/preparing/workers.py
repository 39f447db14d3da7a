"""Processes that may die: a crash costs the task at hand, not the run."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any


@dataclass(frozen=True)
class Died:
    """The outcome of a task whose process ended before it answered."""

    exitcode: int

    def __str__(self) -> str:
        if self.exitcode >= 0:
            return f'the decoding process ended with exit code {self.exitcode}'
        name = signal.Signals(-self.exitcode).name
        hint = ', perhaps out of memory' if name == 'SIGKILL' else ''
        return f'the decoding process was ended by {name}{hint}'


def serve() -> None:
    """The life of a worker process: a function, then tasks on stdin, outcomes on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    tasks, outcomes = Connection(os.dup(0)), Connection(os.dup(1))
    os.dup2(2, 1)  # what a decoder prints must not get among the outcomes
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        function = tasks.recv()
        outcomes.send(None)  # ready: the start and the imports went well
        while True:
            task = tasks.recv()
            try:
                outcome = function(task)
            except Exception as error:
                outcome = error
            outcomes.send(outcome)


class _Worker:
    """A process of its own program: multiprocessing would run the caller's main module again,
    which may import JAX, in every worker."""

    def __init__(self, function: Callable):
        task_end, tasks = os.pipe()
        outcomes, outcome_end = os.pipe()
        code = f'from {__name__} import serve; serve()'
        self.process = subprocess.Popen(
            [sys.executable, '-c', code], stdin=task_end, stdout=outcome_end,
            env=os.environ | {'PYTHONPATH': os.pathsep.join(map(os.path.abspath, sys.path))},
        )  # fmt: skip
        os.close(task_end)
        os.close(outcome_end)  # so that a dead worker reads as the end of the pipe
        self.tasks, self.outcomes = Connection(tasks), Connection(outcomes)
        self.task = None
        self._send(function)

    def give(self, task: Any) -> None:
        self.task = task
        self._send(task)

    def _send(self, value: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # if it died just now, receive() tells
            self.tasks.send(value)

    def receive(self) -> Any:
        try:
            return self.outcomes.recv()
        except (EOFError, OSError):
            return Died(self.stop())

    def stop(self) -> int:
        if not self.outcomes.closed:
            self.process.kill()
            self.process.wait()
            self.tasks.close()
            self.outcomes.close()
        return self.process.returncode


def map_isolated(
    function: Callable[[Any], Any], tasks: Iterable[Any], processes: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (task, function(task)) as they finish, in any order, from `processes` processes.

    Each process works on one task at a time; when it dies, that task's outcome is a `Died` and
    a new process takes its place, which concurrent.futures cannot do. `function`, which must lie
    in an importable module, tasks and outcomes are pickled; no task is None. An exception that
    `function` raises ends it all and is raised here.
    """
    pending = deque(tasks)
    workers = {}
    try:
        while pending or workers:
            while pending and len(workers) < min(processes, len(pending)):
                worker = _Worker(function)
                workers[worker.outcomes] = worker
            for connection in wait(list(workers)):
                worker = workers[connection]
                outcome = worker.receive()
                if isinstance(outcome, Exception):
                    raise outcome
                if worker.task is not None:
                    yield worker.task, outcome
                elif isinstance(outcome, Died):
                    raise RuntimeError(f'A worker process could not start: {outcome}.')
                if isinstance(outcome, Died) or not pending:
                    worker.stop()
                    del workers[connection]
                else:
                    worker.give(pending.popleft())
    finally:
        for worker in workers.values():
            worker.stop()
