"""Broken files, dying processes, killed runs, and running again."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.prepare import main
from data_pipelines.prepared.data import open_prepared
from data_pipelines.preparing import items as raw_files
from data_pipelines.preparing import publish
from data_pipelines.preparing.workers import map_isolated
from tests.crashing import die_on_the_second_patient
from tests.dicom_files import dataset
from tests.siim_tree import (
    SIZE,
    by_pixels,
    expected_bytes,
    prepare_siim,
    write_siim_tree,
    write_tables,
)


@pytest.fixture(scope='module')
def truths_and_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('siim')
    truths = write_siim_tree(root / 'raw')
    return truths, root / 'raw', prepare_siim(root / 'raw', root / 'data')


def break_files(root, truths):
    """Damage four files in four ways and add one; {relative path: what the reason must say}."""
    text, short, colour, extra = (truth.path for truth in truths[:4])
    (root / text).write_text('not a radiograph')
    (root / short).write_bytes((root / short).read_bytes()[:-1000])
    ds = dataset(np.zeros((8, 24), int), bits=8)
    ds.Columns, ds.SamplesPerPixel, ds.PlanarConfiguration = 8, 3, 0
    ds.PhotometricInterpretation = 'RGB'
    ds.save_as(root / colour, enforce_file_format=True)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / 'lung_masks' / f'{truths[3].image}.png')
    (root / 'train/x/y').mkdir(parents=True)
    (root / 'train/x/y/unlisted.dcm').write_text('')
    return {
        text: 'not a DICOM, PNG or JPEG file',
        short: 'cut off',
        colour: 'RGB',
        extra: '5 x 5',
        'train/x/y/unlisted.dcm': 'not listed',
    }


def test_broken_files_are_set_aside(tmp_path, capsys):
    truths = write_siim_tree(tmp_path / 'raw')
    broken = break_files(tmp_path / 'raw', truths)
    arguments = ['--dataset', 'siim_covid19', '--source', str(tmp_path / 'raw')]
    arguments += ['--data_dir', str(tmp_path / 'data'), '--size', str(SIZE), '--processes', '1']
    assert main(arguments) == 3
    assert 'set aside: 5 files' in capsys.readouterr().out
    prepared = open_prepared(tmp_path / 'data', 'siim_covid19', SIZE)
    with (prepared.directory / 'quarantine.csv').open() as file:
        reasons = {row['file']: row['reason'] for row in csv.DictReader(file)}
    assert reasons.keys() == broken.keys()
    for path, expected in broken.items():
        assert expected in reasons[path]
    good = {expected_bytes(truth) for truth in truths if truth.path not in broken}
    assert set(by_pixels(prepared)) == good
    assert main(arguments) == 3  # and nothing to do


def test_a_dying_process_costs_one_file(tmp_path, monkeypatch):
    truths = write_siim_tree(tmp_path / 'raw')
    monkeypatch.setattr(raw_files.ingest, 'prepare_file', die_on_the_second_patient)
    prepared = prepare_siim(tmp_path / 'raw', tmp_path / 'data', processes=2)
    lines = (prepared.directory / 'quarantine.csv').read_text().splitlines()
    assert len(lines) == 2 and truths[2].path in lines[1] and 'SIGKILL' in lines[1]
    assert len(prepared.corpus()) == len(truths) - 1


def test_errors_other_than_the_files_end_the_run():
    with pytest.raises(ValueError, match='seven'):
        list(map_isolated(int, ['1', 'seven'], processes=1))


def test_running_again_does_only_what_is_missing(tmp_path, monkeypatch):
    truths = write_siim_tree(tmp_path / 'raw')
    write_tables(tmp_path / 'raw', truths[:-1])
    held_back = tmp_path / 'raw' / truths[-1].path
    held_back.rename(tmp_path / 'held_back.dcm')
    first = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    written = {p: p.stat().st_mtime_ns for p in first.directory.rglob('*') if p.is_file()}
    decoded = []

    def watch(function, tasks, processes):
        tasks = list(tasks)
        decoded.extend(task.relative for task in tasks)
        return original(function, tasks, processes)

    original = raw_files.map_isolated
    monkeypatch.setattr(raw_files, 'map_isolated', watch)
    again = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    assert again.fingerprint == first.fingerprint and not decoded
    assert written == {p: p.stat().st_mtime_ns for p in written}

    (tmp_path / 'held_back.dcm').rename(held_back)
    write_tables(tmp_path / 'raw', truths)
    more = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    assert decoded == [truths[-1].path]
    assert len(more.corpus()) == len(truths)
    assert more.fingerprint != first.fingerprint


KILL = """
import os, sys
from data_pipelines.preparing import publish
from data_pipelines.prepare import prepare
calls = 0
def dying(*args):
    global calls
    calls += 1
    return original(*args) if calls <= 10 else os._exit(9)
original, publish.make_record = publish.make_record, dying
prepare('siim_covid19', sys.argv[1], sys.argv[2], size=16, processes=1)
"""


def test_a_killed_run_leaves_nothing_that_opens(truths_and_data, tmp_path):
    _, raw, prepared = truths_and_data
    program = [sys.executable, '-c', KILL, str(raw), str(tmp_path)]
    assert subprocess.run(program, stderr=subprocess.DEVNULL).returncode == 9
    assert (tmp_path / 'siim_covid19').exists()
    with pytest.raises(UserError, match='no prepared set'):
        open_prepared(tmp_path, 'siim_covid19', SIZE)
    finished = prepare_siim(raw, tmp_path)
    assert finished.fingerprint == prepared.fingerprint
    assert not list((tmp_path / 'siim_covid19').glob('.*'))


def test_a_run_killed_at_the_card_keeps_the_old_set(truths_and_data, tmp_path, monkeypatch):
    _, raw, _ = truths_and_data
    old = prepare_siim(raw, tmp_path)

    def interrupted(card):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publish.card_module, 'markdown', interrupted)
        prepare_siim(raw, tmp_path, seed=1)
    assert open_prepared(tmp_path, 'siim_covid19', SIZE).fingerprint == old.fingerprint
