"""SIGTERM and Ctrl-C ask the training loop to save and leave; a second Ctrl-C leaves at once."""

import signal

EXIT_CODE = 75  # sysexits' "temporary failure": start the same command again to go on


class Interrupted(Exception):
    """Training stopped on request after its state was saved."""


class InterruptFlag:
    """Set by the first SIGTERM or SIGINT while the `with` block runs."""

    def __init__(self):
        self.raised = False
        self._before = {}

    def _handle(self, signum, frame):
        del frame
        self.raised = True
        # SIGTERM comes from machines, often twice (systemd's to the whole group, a loop's): the
        # second one must not cut the saving short.
        if signum == signal.SIGINT:
            self._restore(signum)

    def _restore(self, signum):
        # None stands for a handler that was not installed by Python.
        signal.signal(signum, self._before[signum] or signal.SIG_DFL)

    def __enter__(self):
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._before[signum] = signal.getsignal(signum)
            signal.signal(signum, self._handle)
        return self

    def __exit__(self, *unused):
        for signum in self._before:
            self._restore(signum)
