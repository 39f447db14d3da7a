"""scripts/until_done.py against real processes and a stand-in of Google's metadata server."""

import contextlib
import http.server
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest

from scripts import until_done

SCRIPT = pathlib.Path(until_done.__file__)
NO_SERVER = '127.0.0.1:9'  # the port of `discard`: nothing answers
# Appends a line to its first argument at every start; its exit codes in turn are the others.
COUNTING = """
import sys
with open(sys.argv[1], 'a+') as file:
    file.write('start\\n')
    file.seek(0)
    number = len(file.readlines())
sys.exit(int(sys.argv[1 + number]))
"""
# Says that it runs; on SIGTERM or SIGINT it saves, and says how often it was asked. It ends by
# itself where no signal arrives (jobs in the background ignore SIGINT): it would keep the pipes.
TRAINING = """
import signal, sys, time
asked = []
for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, lambda number, frame: asked.append(signal.Signals(number).name))
print('training', flush=True)
ends = time.monotonic() + 40
while not asked and time.monotonic() < ends:
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
print(*asked, flush=True)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """Runs the loop in this process over exit codes; returns its own code and the starts."""
    monkeypatch.setenv('GCE_METADATA_HOST', NO_SERVER)
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

    def run(*codes, options=()):
        log = tmp_path / 'starts'
        command = [sys.executable, '-c', COUNTING, str(log), *map(str, codes)]
        return until_done.main([*options, '--', *command]), len(log.read_text().splitlines())

    yield run
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that would be made; none is."""
    made = []
    monkeypatch.setattr(until_done.Loop, '_sleep', lambda loop, seconds: made.append(seconds))
    return made


def test_goes_on_until_done(starts, pauses):
    assert starts(75, 75, 0) == (0, 3)
    assert pauses == [until_done.BUSY_PAUSE] * 2


def test_what_ran_for_a_while_goes_on_at_once(starts, pauses, monkeypatch):
    monkeypatch.setattr(until_done, 'BUSY_SECONDS', 0.0)
    assert starts(75, 75, 0) == (0, 3)
    assert pauses == []


def test_a_mistake_is_not_repeated(starts, pauses):
    assert starts(75, 2, 0) == (2, 2)


def test_gives_up_after_failures_in_a_row(starts, pauses, capfd):
    """137 is what the shell reports of a process that was killed for memory."""
    assert starts(1, 137, 1, 9, 0, options=('--failures', '4')) == (9, 4)
    assert pauses == [2.0, 4.0, 8.0]
    assert 'given up after 4 failures in a row' in capfd.readouterr().err


def test_progress_starts_the_count_anew(starts, pauses):
    assert starts(1, 75, 1, 75, 1, 0, options=('--failures', '2')) == (0, 6)
    assert pauses == [2.0, 10.0, 2.0, 10.0, 2.0]


def test_a_long_run_has_made_progress(starts, pauses, monkeypatch):
    monkeypatch.setattr(until_done, 'PROGRESS_SECONDS', 0.0)
    assert starts(1, 1, 1, 0, options=('--failures', '2')) == (0, 4)
    assert pauses == [2.0] * 3


def test_pauses_grow_up_to_a_limit(starts, pauses, monkeypatch):
    monkeypatch.setattr(until_done, 'LONGEST_PAUSE', 5.0)
    assert starts(1, 1, 1, 1, 0) == (0, 5)
    assert pauses == [2.0, 4.0, 5.0, 5.0]


def test_a_killed_command_is_a_failure(starts, pauses, monkeypatch):
    script = 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'
    assert until_done.main(['--failures', '2', '--', sys.executable, '-c', script]) == 128 + 9
    assert pauses == [2.0]


def test_a_command_that_does_not_exist(starts, tmp_path, capfd):
    assert until_done.main(['--', str(tmp_path / 'nothing')]) == 2
    assert 'nothing cannot be started (No such file' in capfd.readouterr().err


@contextlib.contextmanager
def started(code, seconds=0.0, host=NO_SERVER):
    """The script over TRAINING, which ends with `code` that long after it was asked to save."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, '--', sys.executable, '-c', TRAINING, str(code), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {'GCE_METADATA_HOST': host},
    )  # fmt: skip
    try:
        assert process.stdout.readline() == 'training\n'
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_signals_are_passed_on_and_end_it(name):
    """To the script alone; the command is not started again, although it asks for it."""
    with started(75) as process:
        process.send_signal(signal.Signals[name])
        said, errors = process.communicate(timeout=20)
    assert (process.returncode, said, errors) == (75, f'{name}\n', '')


def test_a_closed_terminal_is_a_reason_to_save():
    with started(75) as process:
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (75, 'SIGTERM\n')


def test_ctrl_c_in_a_terminal_reaches_the_command_once():
    """A terminal signals the whole process group: a second one would cut the saving short."""
    with started(75, 0.3) as process:
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (75, 'SIGINT\n')


def test_sigterm_is_not_repeated():
    """First the notice, then the shutdown of the machine: two for the script, one for it."""
    with started(75, 0.6) as process:
        process.terminate()
        time.sleep(0.2)
        process.terminate()
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (75, 'SIGTERM\n')


def test_without_a_signal_in_time_the_code_is_the_commands():
    """A command that is done, or crashes, after it was asked to leave."""
    for code in (0, 1):
        with started(code) as process:
            process.terminate()
            process.communicate(timeout=20)
        assert process.returncode == code


class Metadata(http.server.ThreadingHTTPServer):
    """Two values of an instance, with tags, waiting for changes, and the demanded header."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Answer)
        self.values = {'preempted': 'FALSE', 'maintenance-event': 'NONE'}
        self.changed = threading.Condition()
        self.waiting = set()

    @property
    def host(self):
        return f'127.0.0.1:{self.server_port}'

    def change(self, **values):
        with self.changed:
            self.values |= {key.replace('_', '-'): value for key, value in values.items()}
            self.changed.notify_all()

    def until_watched(self):
        """Both keys have been read and are waited for."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.waiting == self.values.keys(), 20)


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 (the base class's name)
        server, url = self.server, urllib.parse.urlsplit(self.path)
        key = url.path.removeprefix('/computeMetadata/v1/instance/')
        if self.headers['Metadata-Flavor'] != 'Google' or key not in server.values:
            self.send_error(403)
            return
        asked = urllib.parse.parse_qs(url.query)
        with server.changed:
            if asked.get('wait_for_change') == ['true']:
                server.waiting.add(key)
                server.changed.notify_all()
                seconds = float(asked['timeout_sec'][0])
                server.changed.wait_for(
                    lambda: tag(server.values[key]) != asked['last_etag'][0], seconds
                )
            value = server.values[key]
        self.send_response(200)
        self.send_header('Metadata-Flavor', 'Google')
        self.send_header('ETag', tag(value))
        self.end_headers()
        self.wfile.write(value.encode())

    def log_message(self, *unused):
        pass


def tag(value):
    return value.encode().hex()


@pytest.fixture
def metadata():
    server = Metadata()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ('notice', 'words'),
    [
        ({'preempted': 'TRUE'}, 'preempted'),
        ({'maintenance_event': 'TERMINATE_ON_HOST_MAINTENANCE'}, 'maintenance'),
    ],
)
@pytest.mark.parametrize('code', [75, -9, 0])
def test_a_notice_makes_it_save_and_end(metadata, notice, words, code):
    """With 75 even where the command then crashed; with 0 if it was done."""
    with started(code, host=metadata.host) as process:
        metadata.until_watched()
        assert process.poll() is None
        metadata.change(**notice)
        said, errors = process.communicate(timeout=20)
    assert said == 'SIGTERM\n'
    assert process.returncode == (code if code == 0 else 75)
    assert words in errors and len(errors.splitlines()) == 1


def test_a_live_migration_is_no_notice(metadata):
    """Nothing stops; the next notice counts."""
    with started(75, host=metadata.host) as process:
        metadata.until_watched()
        metadata.change(maintenance_event='MIGRATE_ON_HOST_MAINTENANCE')
        metadata.change(maintenance_event='NONE')
        time.sleep(0.2)
        assert process.poll() is None
        metadata.change(maintenance_event='TERMINATE_ON_HOST_MAINTENANCE')
        assert process.communicate(timeout=20)[0] == 'SIGTERM\n'


def test_a_notice_during_a_pause_ends_it(metadata, monkeypatch):
    script = 'import sys; print("crash", flush=True); sys.exit(1)'
    process = subprocess.Popen(
        [sys.executable, SCRIPT, '--', sys.executable, '-c', script],
        stdout=subprocess.PIPE, text=True, env=os.environ | {'GCE_METADATA_HOST': metadata.host},
    )  # fmt: skip
    assert process.stdout.readline() == 'crash\n'
    time.sleep(0.5)
    metadata.change(preempted='TRUE')
    assert process.communicate(timeout=20)[0] == ''
    assert process.returncode == 75


def test_without_a_metadata_server_nothing_is_said(monkeypatch):
    """Nothing listens; or something that is not Google's."""
    monkeypatch.setattr(until_done, 'RETRY_SECONDS', 0.0)
    until_done.watch(NO_SERVER, 'preempted', pytest.fail)

    class Foreign(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'TRUE')

        def log_message(self, *unused):
            pass

    seen = []
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Foreign) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        until_done.watch(f'127.0.0.1:{server.server_port}', 'preempted', pytest.fail)
        server.shutdown()
    assert len(seen) == until_done.ATTEMPTS
    with started(0) as process:
        process.terminate()
        assert process.communicate(timeout=20)[1] == ''
