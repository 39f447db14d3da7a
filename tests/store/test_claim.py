"""Claims: one owner at a time, also after kills, on other hosts and for the one taken for dead."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cxr_jax.store import claim
from cxr_jax.store.claim import Busy, Claim, Lost

HOLD = (
    'import pathlib, sys, time\n'
    'from cxr_jax.store.claim import Claim\n'
    'with Claim(pathlib.Path(sys.argv[1]), "it").held():\n'
    '    print("held", flush=True); time.sleep(600)'
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'stage'


def test_one_at_a_time_then_free_again(path):
    with Claim(path, 'it').held() as own:
        with pytest.raises(Busy, match='training it'), Claim(path, 'it').held():
            pass
        own.confirm()
    with Claim(path, 'it').held() as next_one:
        next_one.confirm()
    assert len(list(path.parent.iterdir())) == 1  # numbers pass, files do not pile up


def test_a_killed_process_is_succeeded_at_once(path):
    other = subprocess.Popen([sys.executable, '-c', HOLD, path], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b'held\n'
    with pytest.raises(Busy), Claim(path, 'it').held():
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with Claim(path, 'it').held():
        pass


def test_another_host_is_dead_when_it_no_longer_beats(path, monkeypatch):
    """By the file system's clock; the one taken for dead learns it before it finishes."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(claim, '_host', lambda: 'elsewhere')
        far = Claim(path, 'it')
        holding = far.held()
        holding.__enter__()
    with pytest.raises(Busy), Claim(path, 'it').held():
        pass
    file = next(path.parent.glob('stage.claim.*'))
    long_ago = time.time() - claim.STALE_SECONDS - 5
    os.utime(file, (long_ago, long_ago))
    with Claim(path, 'it').held() as own:
        with pytest.raises(Lost, match='taken over'):
            far.confirm()
        holding.__exit__(None, None, None)  # gives nothing back that is another's
        own.confirm()


def test_the_owner_beats(path, monkeypatch):
    monkeypatch.setattr(claim, 'BEAT_SECONDS', 0.01)
    with Claim(path, 'it').held():
        file = next(path.parent.glob('stage.claim.*'))
        os.utime(file, (0, 0))
        for _ in range(500):
            if file.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_of_many_at_once_one_gets_it(path):
    """Eight threads, many rounds: never two owners, and always one."""
    for _ in range(30):
        got, together = [], threading.Barrier(8)
        leave = threading.Event()

        def race(got=got, together=together, leave=leave):
            together.wait()
            try:
                with Claim(path, 'it').held():
                    got.append(1)
                    leave.wait()
            except Busy:
                got.append(0)
            finally:
                if len(got) == 8:
                    leave.set()

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(1000):
            if len(got) == 8:
                break
            time.sleep(0.002)
        leave.set()
        for thread in threads:
            thread.join()
        assert sum(got) == 1 and len(got) == 8
