"""Finished folders at a URL, brought and copied up as a whole: nobody sees half of one.

A unit is a prepared set, masks, a stage or the report of a run. LIST tells size and SHA-256 of each
of its files; it is written after them, and taken away before they are replaced. A folder that was
copied there by hand has none: it counts when its marker file is there, by sizes alone. Files whose
names begin with a dot stay on this machine.

For a folder without a URL (places.url_of) there is nothing to do and nothing to be found.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from data_pipelines.errors import UserError
from data_pipelines.storage.places import (
    alone,
    check_inside,
    each,
    found_below,
    reading,
    url_of,
    writing,
)

LIST = '.files.json'

Files = dict[str, list]  # {path in the unit: [bytes, SHA-256 in hex, or '' where unknown]}


class Broken(UserError):
    """A unit that is not what its LIST says."""


def pull(folder: Path, marker: str = '', over: bool = False) -> bool:
    """Makes `folder` the unit that is at its URL; whether there is one.

    Where there is none (any more), what had been brought from there is deleted. What is being made
    here, or could not be copied up, is left as it is, unless `over`. Broken, or UserError if the
    URL cannot be read: then nothing has changed.
    """
    if not url_of(folder):
        return False
    if folder.exists() and not (over or is_settled(folder)):
        return True
    with alone(folder), reading(folder) as (fs, root):
        files = _listed(fs, root, marker)
        if files is None:
            if is_settled(folder):
                shutil.rmtree(folder)
        elif not _is_here(folder, files):
            _bring(fs, root, folder, files)
        return files is not None


def push(folder: Path, marker: str = '', skip: Iterable[str] = ()) -> None:
    """Makes the unit at the URL of `folder` what is in it, but for the entries `skip`.

    UserError if that fails: then there is no unit, or the former one; here nothing is lost.
    """
    if url_of(folder):
        with alone(folder), writing(folder) as (fs, root):
            files = _files_in(folder, skip)
            if files != _listed(fs, root):
                _replace(fs, root, folder, marker, files)
            (folder / LIST).write_bytes(_as_bytes(files))


def unsettle(folder: Path) -> None:
    """To be called before a folder changes that may have been brought or copied up."""
    (folder / LIST).unlink(missing_ok=True)


def settle(folder: Path, marker: str = '', skip: Iterable[str] = ()) -> None:
    """push, unless this folder was; without a look at what is there, which may be damaged."""
    if not is_settled(folder):
        with alone(folder), writing(folder) as (fs, root):
            if not is_settled(folder):  # still: another process may have done it
                files = _files_in(folder, skip)
                _replace(fs, root, folder, marker, files)
                (folder / LIST).write_bytes(_as_bytes(files))


def remove(folder: Path) -> None:
    """Takes the unit at the URL of `folder` away; UserError."""
    if url_of(folder):
        with writing(folder) as (fs, root):
            files = _listed(fs, root) or {}
            _delete(fs, root, [LIST, *files])


def is_settled(folder: Path) -> bool:
    """Whether a folder is as it was brought or copied up, or has no URL."""
    return not url_of(folder) or (folder / LIST).is_file()


def find(folder: Path, pattern: str) -> set[PurePosixPath]:
    """Files below `folder` at its URL, by their path from there, that match as `*/card.json`
    does; UserError."""
    if not url_of(folder):
        return set()
    with reading(folder) as (fs, root):
        below = map(PurePosixPath, found_below(fs, root))
        depth = len(PurePosixPath(pattern).parts)
        return {path for path in below if path.match(pattern) and len(path.parts) == depth}


def listed(folder: Path) -> Files:
    """The files of the unit at the URL of `folder`, {} if there is none; UserError."""
    if not url_of(folder):
        return {}
    with reading(folder) as (fs, root):
        return _listed(fs, root) or {}


def agree(path: Path, text: str) -> bool:
    """Whether the file at the URL of `path` says `text`, which is written there if there is none;
    of several who write it at a time one succeeds. UserError."""
    if not url_of(path):
        return True
    with reading(path) as (fs, file):
        if not fs.exists(file):
            with contextlib.suppress(FileExistsError):
                fs.pipe_file(file, text.encode(), mode='create')
        return fs.cat_file(file).decode() == text


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _listed(fs, root: str, marker: str = '') -> Files | None:
    """The files of the unit at `root`, by its LIST or, where it has none but `marker`, by size."""
    try:
        told = fs.cat_file(f'{root}/{LIST}')
    except FileNotFoundError:
        if not (marker and fs.exists(f'{root}/{marker}')):
            return None
        found = found_below(fs, root)
        return {name: [found[name]['size'], ''] for name in found if not _is_hidden(name)}
    try:
        files = {name: [int(size), str(sha)] for name, (size, sha) in json.loads(told).items()}
    except (ValueError, TypeError, AttributeError):
        raise Broken(
            f'{root}/{LIST} is damaged. Delete the folder there, and make it again.'
        ) from None
    for name in files:
        check_inside(name, root)
    return files


def _files_in(folder: Path, skip: Iterable[str]) -> Files:
    paths = [path.relative_to(folder) for path in folder.rglob('*') if path.is_file()]
    return {
        path.as_posix(): [(folder / path).stat().st_size, sha256(folder / path)]
        for path in sorted(paths)
        if path.parts[0] not in skip and not _is_hidden(path)
    }


def _is_hidden(name: str | Path) -> bool:
    return any(part.startswith('.') for part in PurePosixPath(name).parts)


def _as_bytes(files: Files) -> bytes:
    return json.dumps(files, indent=0, sort_keys=True).encode()


def _is_here(folder: Path, files: Files) -> bool:
    """Whether `folder` is what was brought or copied up with this list."""
    own = folder / LIST
    return (
        own.is_file()
        and own.read_bytes() == _as_bytes(files)
        and all(_has_size(folder / name, size) for name, (size, _) in files.items())
    )


def _bring(fs, root: str, folder: Path, files: Files) -> None:
    """Gathers the files beside `folder`, then puts them in its place; what is here already, or was
    brought by a pull that was cut short, is not brought again."""
    fresh = folder.with_name(f'.{folder.name}.pulled')
    for path in [path for path in fresh.rglob('*') if path.is_file()]:
        if path.relative_to(fresh).as_posix() not in files:
            path.unlink()

    def gather(name: str) -> None:
        size, sha = files[name]
        target = fresh / name
        if sha and _is_intact(target, size, sha):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if sha and _is_intact(folder / name, size, sha):
            shutil.copyfile(folder / name, target)
            return
        fs.get_file(f'{root}/{name}', str(target))
        if not _is_intact(target, size, sha):
            raise Broken(
                f'{url_of(folder)} is damaged: {name} is not what was copied there. Delete the '
                'folder there, and make it again.'
            )

    try:
        each(gather, files)
    except FileNotFoundError as error:
        raise Broken(
            f'{url_of(folder)} is damaged, or being replaced: a file is missing ({error}). If it '
            'stays so, delete the folder there, and make it again.'
        ) from None
    fresh.mkdir(exist_ok=True)
    (fresh / LIST).write_bytes(_as_bytes(files))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(fresh, folder)


def _replace(fs, root: str, folder: Path, marker: str, files: Files) -> None:
    unsettle(folder)
    try:
        before = _listed(fs, root) or {}
    except Broken:
        before = {}
    # Without a list the marker alone counts: so it goes before the rest changes, and comes after.
    _delete(fs, root, filter(None, [LIST, marker]))
    payload = [name for name in files if name != marker]
    each(lambda name: fs.put_file(str(folder / name), f'{root}/{name}'), payload)
    _delete(fs, root, before.keys() - files.keys())
    if marker in files:
        fs.put_file(str(folder / marker), f'{root}/{marker}')
    fs.pipe_file(f'{root}/{LIST}', _as_bytes(files))


def _delete(fs, root: str, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(f'{root}/{name}')


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _is_intact(path: Path, size: int, sha: str) -> bool:
    return _has_size(path, size) and sha in ('', sha256(path))
