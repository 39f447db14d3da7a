"""Interrupted equals uninterrupted, bit for bit: signals, damaged checkpoints, a full disk."""

import errno
import json
import os
import shutil
import signal

import orbax.checkpoint as ocp
import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cxr_jax.runtime import command_line
from cxr_jax.runtime.interrupt import Interrupted, InterruptFlag
from cxr_jax.store.checkpoint import Checkpoints
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import loop as training
from cxr_jax.train.log import StageLog
from tests import tiny


def checkpoints_of(directory):
    return sorted(path.name for path in (directory.partial / 'checkpoints').iterdir())


def finish(each, store, undisturbed):
    """Starts the stage again; it must end as the undisturbed one did."""
    outcome = tiny.run(each, store)
    assert not outcome.reused
    tiny.assert_same_training(StageDirectory(store, each.name, each.key), undisturbed[2])
    return outcome


@pytest.fixture(scope='module')
def stopped(undisturbed, tmp_path_factory):
    """A classifier stopped at step 5: its store holds the checkpoints 4 and 5."""
    each, _, _ = undisturbed('classify')
    store = tmp_path_factory.mktemp('stopped')
    with pytest.raises(Interrupted):
        tiny.run(each, store, around=tiny.sigterm_at(5))
    assert checkpoints_of(StageDirectory(store, each.name, each.key)) == ['4', '5']
    return store


@pytest.fixture
def store(stopped, tmp_path):
    """A copy of `stopped`."""
    return shutil.copytree(stopped, tmp_path / 'store')


def change_one_bit(folder):
    """In the middle of an array: it decompresses, to another number."""
    path = tiny.largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_zeros(folder):
    path = tiny.largest_file(folder)
    path.write_bytes(bytes(path.stat().st_size))


def delete_manifest(folder):
    (folder / 'arrays' / 'manifest.ocdbt').unlink()


def delete_arrays(folder):
    shutil.rmtree(folder / 'arrays')


def delete_about(folder):
    shutil.rmtree(folder / 'about')


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # orbax's threads
@pytest.mark.parametrize(
    'damage',
    [tiny.truncate, change_one_bit, write_zeros, delete_manifest, delete_arrays, delete_about],
)
def test_a_damaged_checkpoint_is_left_out(damage, undisturbed, store, caplog):
    each, _, _ = undisturbed('classify')
    directory = StageDirectory(store, each.name, each.key)
    damage(directory.partial / 'checkpoints' / '5')
    outcome = finish(each, store, undisturbed('classify'))
    assert [row['session'] for row in outcome.metrics] == [1] * 4 + [2] * 4
    assert f'{os.sep}5 is set aside.' in caplog.text
    assert (directory.finished / 'checkpoints' / '5.broken').is_dir()


REFUSALS = (
    OSError(errno.EMFILE, 'Too many open files'),
    # As tensorstore tells it.
    ValueError('Error reading "d/0": os_error_code=\'24\' Too many open files'),
)


@pytest.mark.parametrize('refusal', REFUSALS, ids=('python', 'tensorstore'))
def test_what_the_system_refuses_is_no_damage(refusal, undisturbed, store, monkeypatch):
    """The checkpoint stays where it is, and nothing is trained from an older one."""
    each, _, _ = undisturbed('classify')

    def refuse(*unused, **names):
        raise refusal

    monkeypatch.setattr(ocp.StandardCheckpointer, 'restore', refuse)
    with pytest.raises(OSError, match='Too many open files'):
        tiny.run(each, store, around=tiny.no_training)
    assert checkpoints_of(StageDirectory(store, each.name, each.key)) == ['4', '5']


def test_without_any_good_checkpoint_the_stage_starts_anew(undisturbed, store, caplog):
    each, _, _ = undisturbed('classify')
    directory = StageDirectory(store, each.name, each.key)
    for step in ('4', '5'):
        change_one_bit(directory.partial / 'checkpoints' / step)
    outcome = finish(each, store, undisturbed('classify'))
    assert outcome.metrics[0]['session'] == 1
    assert [session['step'] for session in outcome.description['sessions']] == [0, 0]
    assert caplog.text.count('is set aside') == 2


def test_what_a_kill_leaves_behind_is_cleared(undisturbed, store):
    """Half a save, half a line of the log, a temporary file, a stage not yet renamed."""
    each, _, _ = undisturbed('classify')
    directory = StageDirectory(store, each.name, each.key)
    half = directory.partial / 'checkpoints' / '6.orbax-checkpoint-tmp'
    shutil.copytree(directory.partial / 'checkpoints' / '5', half)
    shutil.copytree(half, half.with_name('7.orbax-checkpoint-tmp-1'))
    tiny.truncate(half)
    with open(directory.partial / 'metrics.jsonl', 'a') as log:
        log.write('{"step": 6, "loss": 9.9, "seconds": 1, "session": 1}\n{"step": 7, "lo')
    (directory.partial / '.sessions.json.0a1b2c3d.tmp').write_text('{"half')
    (directory.partial / 'encoder.safetensors').write_bytes(bytes(1000))
    (directory.partial / 'bundle.json').write_text('{"sha256": "of another time"}')
    finish(each, store, undisturbed('classify'))
    left = sorted(path.name for path in (directory.finished / 'checkpoints').iterdir())
    assert left == ['5', '8']


def full_disk(*unused, **names):
    raise OSError(errno.ENOSPC, 'No space left on device')


def fails_for(function, part):
    """`function(source, target)` that finds the disk full where `part` is in the source's name."""
    return lambda source, target: (
        full_disk() if part in os.fspath(source) else function(source, target)
    )


FULL = {
    'starting a checkpoint': (ocp.CheckpointManager, 'save', full_disk),
    'ending it in the background': (os, 'rename', fails_for(os.rename, 'orbax-checkpoint-tmp')),
    'the log': (StageLog, 'sync', full_disk),
    'TensorBoard': (EventsWriter, 'write_event', full_disk),
    'a part': (os, 'replace', fails_for(os.replace, 'head.safetensors')),
    'the description': (os, 'replace', fails_for(os.replace, 'bundle.json')),
    'the final name': (os, 'rename', fails_for(os.rename, '.partial')),
}


@pytest.mark.parametrize('where', FULL)
def test_a_full_disk(where, undisturbed, store, monkeypatch, capsys):
    each, _, _ = undisturbed('classify')
    directory = StageDirectory(store, each.name, each.key)

    def command(*unused, **names):
        tiny.run(each, store)

    with monkeypatch.context() as patch:
        patch.setattr(*FULL[where])
        patch.setattr(command_line.app, 'run', command)
        with pytest.raises(SystemExit) as stopped:
            command_line.run(command, '')
    assert stopped.value.code == 2
    assert 'The disk is full' in capsys.readouterr().err
    assert not directory.finished.exists()
    finish(each, store, undisturbed('classify'))


def test_sigterm_during_the_last_save(undisturbed, store, monkeypatch):
    """It is not lost: the process leaves before the next stage, and nothing is trained again."""
    each, _, _ = undisturbed('classify')
    save = Checkpoints.save

    def interrupted_save(self, state, wait=False):
        if int(state.step) == tiny.STEPS:
            signal.raise_signal(signal.SIGTERM)
        save(self, state, wait)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match='at step 8 of 8'):
        patch.setattr(Checkpoints, 'save', interrupted_save)
        tiny.run(each, store)
    tiny.run(each, store, around=tiny.no_training)
    directory = StageDirectory(store, each.name, each.key)
    tiny.assert_same_training(directory, undisturbed('classify')[2])


def test_sigterm_while_the_log_is_written(undisturbed, store, monkeypatch):
    """The step that the message names is saved, whenever the signal comes."""
    each, _, _ = undisturbed('classify')
    write = StageLog.write

    def interrupted_write(self, rows, epoch):
        write(self, rows, epoch)
        if rows[-1]['step'] == 6:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match='at step 7 of 8'):
        patch.setattr(training, 'LOG_STEPS', 2)
        patch.setattr(StageLog, 'write', interrupted_write)
        tiny.run(each, store)
    assert checkpoints_of(StageDirectory(store, each.name, each.key)) == ['5', '7']


@pytest.fixture
def interruptible():
    """Python's own SIGINT, also where a shell started the tests in the background, without it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


def test_a_second_interrupt_leaves_at_once(interruptible):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt), InterruptFlag() as flag:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert flag.raised
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_log_over_several_sessions(tmp_path, capsys):
    """Rows beyond the checkpoint go, also half ones; time and sessions are carried on."""
    rows = [
        {'step': step, 'loss': 1.0 / step, 'seconds': 10.0 * step, 'session': 1 + (step > 3)}
        for step in range(1, 7)
    ]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (tmp_path / 'metrics.jsonl').write_bytes(text.encode() + b'{"step": 7, \xff')
    log = StageLog(tmp_path, 'name', start=5, total=8, batch_size=4)
    assert log.rows == rows[:5] and log.sessions == 3
    assert 50 <= log.seconds < 60
    log.write([{'step': 6, 'loss': 0.5}], epoch=1.0)
    log.close()
    # Two of the three steps of session 1 lie between its first and last fetch, one of session 2.
    assert log.images_per_second() == pytest.approx(3 * 4 / (20 + 10), abs=0.05)
    assert log.mean_before(6, 2) == {'loss': (1 / 5 + 0.5) / 2}
    assert log.mean_before(5, 2) == {'loss': (1 / 4 + 1 / 5) / 2}
    assert [row['step'] for row in tiny.curve(log.path)] == [1, 2, 3, 4, 5, 6]
    # TensorBoard drops what it knows from the step of a START on, and keeps the rows before it.
    _, start, row = events(tmp_path / 'tensorboard')
    assert start.step == 6 and start.session_log.status == SessionLog.START
    assert row.step == 6 and row.summary.value[0].tag == 'loss'
    assert row.summary.value[0].simple_value == 0.5


def events(folder):
    """The Events of its only file: length (8 bytes), checksum (4), event, checksum (4), ..."""
    (path,) = folder.iterdir()
    content, found = path.read_bytes(), []
    while content:
        end = 12 + int.from_bytes(content[:8], 'little')
        found.append(Event.FromString(content[12:end]))
        content = content[end + 4 :]
    return found
