"""A set prepared in shares or by Apache Beam equals that of one machine, byte for byte."""

import shutil
import sys

import pytest

from data_pipelines.errors import UserError
from data_pipelines.prepare import main
from data_pipelines.preparing import beam
from data_pipelines.preparing import items as raw_files
from tests.siim_tree import SIZE, prepare_siim, write_siim_tree


@pytest.fixture(scope='module')
def one_machine(tmp_path_factory):
    """(raw folder with two unreadable files, the set that one machine makes of it)."""
    root = tmp_path_factory.mktemp('shares')
    truths = write_siim_tree(root / 'raw')
    for truth in truths[3:5]:
        (root / 'raw' / truth.path).write_text('not a radiograph')
    return root / 'raw', prepare_siim(root / 'raw', root / 'data')


@pytest.fixture
def arguments(one_machine, tmp_path):
    """The command for another data folder, which gets the same salt for its pseudonyms."""
    raw, prepared = one_machine
    shutil.copy(prepared.data_dir / '.salt', tmp_path)
    settings = {'dataset': 'siim_covid19', 'source': raw, 'data_dir': tmp_path, 'size': SIZE}
    return [f'--{name}={value}' for name, value in (settings | {'processes': 1}).items()]


@pytest.fixture
def decoded(monkeypatch):
    """Fills with the names of the files that are given to the decoding processes, run by run."""
    runs, original = [], raw_files.map_isolated

    def watch(function, tasks, processes):
        runs.append([task.relative for task in tasks])
        return original(function, tasks, processes)

    monkeypatch.setattr(raw_files, 'map_isolated', watch)
    return runs


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def assert_made(one_machine, data_dir):
    _, prepared = one_machine
    made = files_of(data_dir / 'siim_covid19' / f'{SIZE}px')
    expected = files_of(prepared.directory)
    assert made.keys() == expected.keys() and len(made) > 8
    assert [name for name in made if made[name] != expected[name]] == []


def test_shares_make_the_set_of_one_machine(one_machine, arguments, decoded, tmp_path, capsys):
    codes = [main([*arguments, '--shard', f'{k}/3']) for k in (2, 0, 1)]
    assert 3 in codes and set(codes) <= {0, 3}
    assert 'without --shard' in capsys.readouterr().out
    assert not (tmp_path / 'siim_covid19').exists()
    files = [name for run in decoded for name in run]
    total = len(one_machine[1].corpus()) + 2
    assert len(files) == len(set(files)) == total
    assert max(map(len, decoded)) - min(map(len, decoded)) <= 1
    assert main(arguments) == 3
    assert len(decoded[3]) == 2, 'only the unreadable files are left'
    assert_made(one_machine, tmp_path)


@pytest.mark.parametrize('share', ['3/3', '0/0', '1', '-1/2', 'a/b'])
def test_an_impossible_share_is_told(arguments, share, capsys):
    assert main([*arguments, f'--shard={share}']) == 2
    assert '0/4' in capsys.readouterr().err


def test_what_cannot_be_shared_is_told(arguments, tmp_path, capsys):
    assert main([*arguments, '--shard=0/2', '--beam_runner=DirectRunner']) == 2
    assert 'choose one' in capsys.readouterr().err
    with pytest.raises(UserError, match='without --shard'):
        what = raw_files.Preparation('synthetic_cxr', None, tmp_path)
        raw_files.prepare_share(what, (0, 2))


def test_beam_makes_the_set_of_one_machine(one_machine, arguments, decoded, tmp_path, monkeypatch):
    pytest.importorskip('apache_beam', reason='needs Apache Beam: pip install apache-beam')
    monkeypatch.setattr(beam, 'FILES_AT_ONCE', 40)
    options = ['--beam_runner=DirectRunner', '--direct_num_workers=1']
    assert main([*arguments, *options]) == 3
    assert [len(run) for run in decoded] == [2], 'Beam prepared all that can be read'
    assert_made(one_machine, tmp_path)


def test_an_unknown_runner_is_told(arguments, capsys):
    pytest.importorskip('apache_beam', reason='needs Apache Beam: pip install apache-beam')
    assert main([*arguments, '--beam_runner=NoSuchRunner']) == 2
    assert 'NoSuchRunner' in capsys.readouterr().err


def test_beam_that_is_not_installed_is_told(arguments, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'apache_beam', None)
    assert main([*arguments, '--beam_runner=DirectRunner']) == 2
    assert 'pip install apache-beam' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, '--temp_location=elsewhere'])
    assert '--temp_location' in capsys.readouterr().err
