"""Claims on work that several processes, on one host or many, could do: one at a time has each.

A claim is a file `<name>.claim.<n>`, deleted when it is given back; the highest n counts. Creating
a file that must not exist is atomic on local and network file systems, so the claim of an owner who
no longer beats passes to whoever creates number n + 1 first. Numbers are used again, so a file is
its owner's by the token in it, and who has created one looks whether another began meanwhile.
"""

import contextlib
import json
import os
import pathlib
import re
import threading
import time
import uuid

from data_pipelines.errors import UserError

BEAT_SECONDS = 5.0
# Without a beat for so long an owner counts as dead: a pause of a network file system is shorter.
STALE_SECONDS = 60.0
# Before that is believed, so long a beat is watched for: clocks may differ on some file systems.
WATCH_SECONDS = 3 * BEAT_SECONDS


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
            with contextlib.suppress(OSError):  # a folder that is gone is no reason to fail
                self._give_back()

    def confirm(self) -> None:
        """Raises Lost if another process has taken the claim over."""
        if self._current() != self._number or not self._is_own():
            raise Lost(
                f'{self._what} was taken over by another process, as this one had not been heard '
                f'of for {STALE_SECONDS:.0f} s. Start this command again: nothing is lost.'
            )

    def _take(self) -> None:
        latest = self._current()
        while latest and not self._is_over(latest):
            if self._file(latest).exists():
                raise Busy(
                    f'Another process is training {self._what}. Wait for it, or start this run '
                    'again when it has ended.'
                )
            latest = self._current()  # given back, or taken over, just now
        self._number = latest + 1
        owner = {'host': _host(), 'pid': os.getpid(), 'started': _started(os.getpid())}
        begun = Busy(f'Another process has just begun with {self._what}.')
        try:
            with open(self._file(self._number), 'x') as file:
                json.dump(owner | {'token': self._token}, file)
        except FileExistsError:
            raise begun from None
        # The numbers were read some time ago: meanwhile they may have been given back and begun
        # anew. Whoever began later sees the other's file here, so never do two go on.
        others = [number for number in self._numbers() if number != self._number]
        if any(number > self._number or not self._is_over(number) for number in others):
            self._give_back()
            raise begun
        for number in others:
            self._file(number).unlink(missing_ok=True)

    def _give_back(self) -> None:
        """Deletes the own file, unless the number is another's by now."""
        if self._is_own():
            self._file(self._number).unlink(missing_ok=True)

    def _is_own(self) -> bool:
        return _owner_in(self._file(self._number)).get('token') == self._token

    def _is_over(self, number: int) -> bool:
        """Its process dead on this host, or without a beat; False if it is no longer there."""
        file = self._file(number)
        owner = _owner_in(file)
        if owner.get('host') == _host():
            return _started(owner.get('pid')) != owner.get('started')
        # A file without text has been created just now; if its writer died, the beat tells.
        try:
            if not self._is_stale(file):
                return False
            seen = file.stat().st_mtime
            time.sleep(WATCH_SECONDS)
            return file.stat().st_mtime == seen
        except FileNotFoundError:
            return False

    def _is_stale(self, file: pathlib.Path) -> bool:
        # By the clock of the file system: hosts' own clocks may differ.
        probe = self._path.with_name(f'.{self._path.name}.{self._token}')
        try:
            probe.touch()
            return probe.stat().st_mtime - file.stat().st_mtime > STALE_SECONDS
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                if self._is_own():
                    os.utime(self._file(self._number))

    def _file(self, number: int) -> pathlib.Path:
        return self._path.with_name(f'{self._path.name}.claim.{number}')

    def _numbers(self) -> list[int]:
        pattern = re.compile(re.escape(self._path.name) + r'\.claim\.(\d+)')
        matches = map(pattern.fullmatch, os.listdir(self._path.parent))
        return [int(match[1]) for match in matches if match]

    def _current(self) -> int:
        return max(self._numbers(), default=0)


def _owner_in(file: pathlib.Path) -> dict:
    """What a claim's file tells of its owner; {} if it is not there, or not written as a whole."""
    try:
        owner = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


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
