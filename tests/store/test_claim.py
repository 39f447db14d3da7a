"""Claims: one owner at a time, also after kills, on other hosts and for the one taken for dead."""

import contextlib
import errno
import os
import pathlib
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


@pytest.fixture
def elsewhere(monkeypatch):
    """For `with elsewhere():` claims are taken on another host, whose beats are watched briefly."""
    monkeypatch.setattr(claim, 'WATCH_SECONDS', 0.05)

    @contextlib.contextmanager
    def other_host():
        with monkeypatch.context() as patch:
            patch.setattr(claim, '_host', lambda: 'elsewhere')
            yield

    return other_host


def age(path):
    """The claim that counts has had no beat for long."""
    long_ago = time.time() - claim.STALE_SECONDS - 5
    os.utime(max(path.parent.glob('stage.claim.*')), (long_ago, long_ago))


def test_one_at_a_time_then_free_again(path):
    with Claim(path, 'it').held() as own:
        with pytest.raises(Busy, match='training it'), Claim(path, 'it').held():
            pass
        own.confirm()
    with Claim(path, 'it').held() as next_one:
        next_one.confirm()
        assert len(list(path.parent.iterdir())) == 1
    assert not list(path.parent.iterdir())  # nothing is left behind


def test_a_killed_process_is_succeeded_at_once(path):
    other = subprocess.Popen([sys.executable, '-c', HOLD, path], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b'held\n'
    with pytest.raises(Busy), Claim(path, 'it').held():
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with Claim(path, 'it').held():
        pass


def test_another_host_is_dead_when_it_no_longer_beats(path, elsewhere):
    """By the file system's clock; the one taken for dead learns it before it finishes."""
    with elsewhere():
        far = Claim(path, 'it')
        holding = far.held()
        holding.__enter__()
    with pytest.raises(Busy), Claim(path, 'it').held():
        pass
    age(path)
    with Claim(path, 'it').held() as own:
        with pytest.raises(Lost, match='taken over'):
            far.confirm()
        holding.__exit__(None, None, None)  # gives nothing back that is another's
        own.confirm()
    assert not list(path.parent.iterdir())


def test_who_was_taken_for_dead_learns_it_when_its_number_is_anothers(path, elsewhere):
    """The one who took over is done, and a third one began, with the first one's number."""
    with elsewhere():
        far = Claim(path, 'it')
        holding = far.held()
        holding.__enter__()
    age(path)
    with Claim(path, 'it').held():
        pass
    with pytest.raises(Lost):
        far.confirm()
    with Claim(path, 'it').held() as third:
        assert [file.name for file in path.parent.iterdir()] == ['stage.claim.1']
        with pytest.raises(Lost):
            far.confirm()
        holding.__exit__(None, None, None)
        third.confirm()


def test_a_beat_is_believed_more_than_a_clock(path, elsewhere, monkeypatch):
    """A host whose clock is behind stamps old times, and lives."""
    monkeypatch.setattr(claim, 'WATCH_SECONDS', 0.3)
    long_ago = time.time() - 1000
    ended = threading.Event()
    with elsewhere():
        far = Claim(path, 'it')
        far._take()
    os.utime(far._file(1), (long_ago, long_ago))

    def beat():
        for number in range(1, 1000):
            os.utime(far._file(1), (long_ago + number, long_ago + number))
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(Busy, match='is training'), Claim(path, 'it').held():
        pass
    ended.set()
    thread.join()
    far.confirm()
    with Claim(path, 'it').held():
        pass


def test_a_number_read_long_ago_takes_nothing_from_the_living(path, monkeypatch):
    """Between reading that claim 1 is over and creating 2, others came and went, and one began."""
    other = subprocess.Popen([sys.executable, '-c', HOLD, path], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b'held\n'
    other.kill()
    other.communicate()
    living, is_over = Claim(path, 'it'), Claim._is_over
    holding = living.held()

    def meanwhile(self, number):
        over = is_over(self, number)
        if self is slow and not living._number:
            assert over
            with Claim(path, 'it').held():
                pass
            holding.__enter__()
            assert living._number == number == 1
        return over

    slow = Claim(path, 'it')
    monkeypatch.setattr(Claim, '_is_over', meanwhile)
    with pytest.raises(Busy, match='just begun'), slow.held():
        pass
    living.confirm()
    holding.__exit__(None, None, None)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize('text', ['', '{"host": ', '[]', 'free', '{}', '{"host": "elsewhere"}'])
def test_a_damaged_claim_is_over_when_nobody_beats(text, path, elsewhere):
    path.with_name('stage.claim.3').write_text(text)
    with pytest.raises(Busy), Claim(path, 'it').held():
        pass
    age(path)
    with Claim(path, 'it').held() as own:
        own.confirm()
    assert not list(path.parent.iterdir())


def test_giving_back_hides_no_error(path, monkeypatch):
    """What fails under a claim is told, whatever the system says of the claim's file then."""

    def refuse(*unused, **names):
        raise OSError(errno.EIO, 'Input/output error')

    with pytest.raises(KeyError, match='own'), Claim(path, 'it').held():
        monkeypatch.setattr(pathlib.Path, 'unlink', refuse)
        raise KeyError('own')


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
