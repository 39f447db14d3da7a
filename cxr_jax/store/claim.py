"""Claims on work that several processes, on one host or many, could do: one at a time has each.

A claim is a file `<name>.claim.<n>`; the highest n counts. Creating a file that must not exist is
atomic on local and network file systems, so a claim that was given back, or whose owner no longer
beats, passes to whoever creates number n + 1 first.
"""

import contextlib
import json
import os
import pathlib
import re
import threading
import uuid

from data_pipelines.errors import UserError

BEAT_SECONDS = 5.0
# Without a beat for so long an owner counts as dead: a pause of a network file system is shorter.
STALE_SECONDS = 60.0
FREE = 'free'


class Busy(UserError):
    """Another living process holds the claim."""


class Lost(UserError):
    """This process was taken for dead, and another has taken its claim over."""


class Claim:
    """The claim on `path`, whose folder exists; `with claim.held(): ...` raises Busy or holds it.

    What is done under it must end with `confirm`, before anything is given a final name.
    """

    def __init__(self, path: pathlib.Path, what: str):
        self._path, self._what = path, what
        self._number, self._token = 0, uuid.uuid4().hex

    @contextlib.contextmanager
    def held(self):
        """Holds the claim, with a beat in the background; gives it back at the end."""
        self._take()
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        beat.start()
        try:
            yield self
        finally:
            stop.set()
            beat.join()
            if self._current() == self._number:
                self._file(self._number).write_text(FREE)

    def confirm(self) -> None:
        """Raises Lost if another process has taken the claim over."""
        if self._current() != self._number:
            raise Lost(
                f'{self._what} was taken over by another process, as this one had not been heard '
                f'of for {STALE_SECONDS:.0f} s. Start this command again: nothing is lost.'
            )

    def _take(self) -> None:
        latest = self._current()
        if latest and not self._is_over(self._file(latest)):
            raise Busy(
                f'Another process is training {self._what}. Wait for it, or start this run again '
                'when it has ended.'
            )
        self._number = latest + 1
        owner = {'host': _host(), 'pid': os.getpid(), 'started': _started(os.getpid())}
        begun = Busy(f'Another process has just begun with {self._what}.')
        try:
            with open(self._file(self._number), 'x') as file:
                json.dump(owner, file)
        except FileExistsError:
            raise begun from None
        if self._current() != self._number:
            # The number was read long ago: it had been used and cleared away since.
            self._file(self._number).unlink(missing_ok=True)
            raise begun
        for number in self._numbers():
            if number < self._number:
                self._file(number).unlink(missing_ok=True)

    def _is_over(self, file: pathlib.Path) -> bool:
        """Given back, its process dead on this host, or without a beat."""
        try:
            text = file.read_text()
            if text == FREE:
                return True
            # A file without text has been created just now; if its writer died, the beat tells.
            owner = json.loads(text or '{"host": ""}')
            if owner['host'] == _host():
                return _started(owner['pid']) != owner['started']
            # By the clock of the file system: hosts' own clocks may differ.
            probe = self._path.with_name(f'.{self._path.name}.{self._token}')
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
            return now - file.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:  # taken over in between
            return False

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._file(self._number))

    def _file(self, number: int) -> pathlib.Path:
        return self._path.with_name(f'{self._path.name}.claim.{number}')

    def _numbers(self) -> list[int]:
        pattern = re.compile(re.escape(self._path.name) + r'\.claim\.(\d+)')
        matches = map(pattern.fullmatch, os.listdir(self._path.parent))
        return [int(match[1]) for match in matches if match]

    def _current(self) -> int:
        return max(self._numbers(), default=0)


def _host() -> str:
    """Where process numbers mean the same: this start of this machine, this container."""
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id')
    with contextlib.suppress(OSError):
        return f'{boot.read_text().strip()} {os.readlink("/proc/self/ns/pid")}'
    return uuid.uuid4().hex  # not Linux: only the beat tells


def _started(pid: int) -> str:
    """When a process of this host began, '' if there is none: a number may be used again."""
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return ''
    state, *rest = stat.rpartition(')')[2].split()
    return '' if state in 'ZX' else rest[18]
