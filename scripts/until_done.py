"""Run a command until it is done, on machines that may be taken away.

    python scripts/until_done.py [--failures 5] -- python -m cxr_jax.main --config FILE:ARGUMENT

What follows from the command's exit code (cxr_jax.runtime.command_line says what these mean):

    0      done: this ends with 0
    75     stopped with everything saved, or another process is at work on the same: started
           again, after 10 s if it had run for less than 30 s
    2      a mistake to correct: this ends with 2
    other  a crash, or killed for memory: started again after a pause that doubles from 2 s to
           5 min; after --failures of them in a row this ends with the last one's code (128 +
           number of a signal). A run of 10 min or more, or one that ended with 75, has got on and
           starts the count anew.

SIGTERM, SIGINT and a closed terminal reach the command, which saves; then this ends with its code
and starts nothing: the machine is going away. SIGTERM is passed on once, so that a second one does
not cut the saving short.

Google Cloud announces that a VM is preempted (30 s ahead) or stopped for maintenance of its host
(60 s, with GPUs an hour ahead) on its metadata server, which is watched if there is one. Then the
command is told to save and this ends with 75. A spot TPU VM is not started again but deleted and
made anew: put the loop into its startup script (gcloud compute tpus queued-resources create ...
--spot --metadata-from-file=startup-script=FILE), and --workdir on storage that outlives it, or at a
URL (docs/storage.md). For other VMs write a systemd unit and enable it, so that it goes on when the
VM is up again:

    [Unit]
    After=network-online.target
    Wants=network-online.target
    [Service]
    WorkingDirectory=/home/me/cxr_jax
    ExecStart=/home/me/cxr_jax/.venv/bin/python scripts/until_done.py -- ...
    KillMode=mixed
    TimeoutStopSec=120
    [Install]
    WantedBy=multi-user.target

KillMode=mixed: systemd signals this program, not the command beside it.

SLURM signals the steps of a job before its time is up; the batch script then queues it again:

    #SBATCH --signal=TERM@120 --requeue --open-mode=append
    srun python scripts/until_done.py -- python -m cxr_jax.main ... ||
        { [ $? = 75 ] && scontrol requeue "$SLURM_JOB_ID"; }

--requeue alone covers failed nodes and preemption. Without srun write --signal=B:TERM@120 and make
`exec python scripts/until_done.py ...` the last line, which is then what gets the signal.
"""

import argparse
import functools
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

SAVED, MISTAKE = 75, 2
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0  # seconds after a crash
PROGRESS_SECONDS = 600.0
BUSY_SECONDS, BUSY_PAUSE = 30.0, 10.0
# The same on every Google Cloud VM; metadata.google.internal is its name, which elsewhere would
# have to be looked up first.
METADATA_HOST = '169.254.169.254'
NOTICES = {
    'preempted': ('TRUE', 'this VM is being preempted'),
    'maintenance-event': (
        'TERMINATE_ON_HOST_MAINTENANCE',
        'this VM will be stopped for maintenance of its host',
    ),
}
CONTACT_SECONDS, WAIT_SECONDS = 1.0, 60
ATTEMPTS, RETRY_SECONDS = 3, 5.0


class Loop:
    """The command's runs, one after the other; `leave` is the handler of signals."""

    def __init__(self, command: list[str], failures: int):
        self._command, self._failures = command, failures
        self._child: subprocess.Popen | None = None
        self._asked: list[int] = []  # signals meant for the command
        self._passed_on = False
        self.notice = ''  # why the machine goes away, if it was announced

    def run(self) -> int:
        """Exit code of the whole."""
        failed = 0
        while True:
            started = time.monotonic()
            code = self._run_once()
            if self._asked:
                return self._last_code(code)
            if code in (0, MISTAKE):
                return code
            if code == SAVED or time.monotonic() - started >= PROGRESS_SECONDS:
                failed = 0
            if code == SAVED:
                say('to be gone on with; started again')
                if time.monotonic() - started < BUSY_SECONDS:
                    # Perhaps another process is at work on the same, or not known to be dead yet.
                    self._sleep(BUSY_PAUSE)
                if self._asked:
                    return self._last_code(code)
                continue
            failed += 1
            if failed >= self._failures:
                say(f'exit code {code}; given up after {failed} failures in a row')
                return code
            pause = min(FIRST_PAUSE * 2 ** (failed - 1), LONGEST_PAUSE)
            say(f'exit code {code}; again in {pause:g} s (failure {failed} of {self._failures})')
            self._sleep(pause)
            if self._asked:
                return self._last_code(code)

    def leave(self, signum: int, frame: object) -> None:
        """Passes a signal on to the command, now or as soon as it runs."""
        del frame
        self._asked.append(signal.SIGTERM if signum == signal.SIGHUP else signum)
        if self._child:
            self._pass_on()

    def _pass_on(self) -> None:
        signum = self._asked[-1]
        if signum == signal.SIGINT or not self._passed_on:
            self._passed_on = True
            self._child.send_signal(signum)

    def _run_once(self) -> int:
        """The command's exit code, 128 + the number of the signal that killed it."""
        # In a process group of its own: what a terminal sends to the whole group (Ctrl-C) reaches
        # the command through this program alone, once.
        self._child = subprocess.Popen(self._command, process_group=0)
        if self._asked and not self._passed_on:
            self._pass_on()
        code = self._child.wait()
        self._child = None
        return code if code >= 0 else 128 - code

    def _last_code(self, code: int) -> int:
        if not self.notice:
            return code
        # Whatever became of the command: what is left to do is to start again elsewhere.
        return code if code in (0, MISTAKE) else SAVED

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._asked:
            time.sleep(0.1)


def say(sentence: str) -> None:
    print(f'until_done: {sentence}', file=sys.stderr, flush=True)


def watch(host: str, key: str, announce: Callable[[str], None]) -> None:
    """Waits for the notice `key` of the metadata server; returns at once where there is none."""
    meant, sentence = NOTICES[key]
    etag, attempts = None, 0
    while True:
        try:
            value, etag = read_metadata(host, key, etag)
        except (OSError, http.client.HTTPException):
            attempts += 1
            if etag is None and attempts == ATTEMPTS:
                return
            time.sleep(RETRY_SECONDS)
            continue
        if value == meant:
            announce(sentence)
            return


def read_metadata(host: str, key: str, etag: str | None) -> tuple[str, str]:
    """A value of this VM and its tag: at once, or when it is no longer that of `etag`."""
    path, seconds = f'/computeMetadata/v1/instance/{key}', CONTACT_SECONDS
    if etag is not None:
        path += f'?wait_for_change=true&timeout_sec={WAIT_SECONDS}&last_etag={etag}'
        seconds += WAIT_SECONDS
    connection = http.client.HTTPConnection(host, timeout=seconds)
    try:
        connection.request('GET', path, headers={'Metadata-Flavor': 'Google'})
        answer = connection.getresponse()
        # Other clouds have servers of their own at this address.
        if answer.status != 200 or answer.getheader('Metadata-Flavor') != 'Google':
            raise http.client.HTTPException(answer.status)
        return answer.read().decode().strip(), answer.getheader('ETag', '')
    finally:
        connection.close()


def main(argv: list[str] | None = None) -> int:
    """Exit code of the loop over the command in `argv`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--failures', type=int, default=5, help='in a row, before giving up')
    parser.add_argument('command', nargs='+', help='after --: the command and its arguments')
    arguments = parser.parse_args(argv)
    loop = Loop(arguments.command, arguments.failures)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # What is ignored stays so: SIGHUP under nohup.
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, loop.leave)

    def announce(sentence: str) -> None:
        say(f'{sentence}; the command is told to save')
        loop.notice = sentence
        os.kill(os.getpid(), signal.SIGTERM)

    host = os.environ.get('GCE_METADATA_HOST') or METADATA_HOST
    for key in NOTICES:
        threading.Thread(target=functools.partial(watch, host, key, announce), daemon=True).start()
    try:
        return loop.run()
    except (FileNotFoundError, PermissionError) as error:
        say(f'{arguments.command[0]} cannot be started ({error.strerror})')
        return MISTAKE


if __name__ == '__main__':
    sys.exit(main())
