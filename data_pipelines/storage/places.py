"""Folders on this machine or at a URL, of which this machine has a working copy.

    data, /data, file:///data        that folder
    gs://bucket/data, s3://...       <mirror>/gs/bucket/data, the working copy of what is there

<mirror> is $CXR_JAX_MIRROR, or <user cache>/cxr_jax/mirror. Everything works in the copy, as
claims, renames and growing logs need a file system; units.py and raw.py copy down and up.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import fsspec

from data_pipelines.errors import UserError

BACKENDS = {'gs': 'gcsfs', 's3': 's3fs'}  # scheme: the package that fsspec reads it with
URL = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+):(//?)(.*)', re.DOTALL)
THREADS = 16
DEFECTS = (AssertionError, AttributeError, LookupError, NameError, TypeError)  # of a program


def local(text: str | Path) -> Path:
    """The folder or file that `text` names, for a URL of BACKENDS its working copy; UserError."""
    match = URL.fullmatch(str(text))
    if not match:
        return Path(text)
    scheme, slashes, rest = match[1].lower(), match[2], match[3]
    if scheme == 'file' and slashes == '//' and rest.startswith(('/', 'localhost/')):
        return Path(unquote(rest.removeprefix('localhost')))
    if scheme not in (*BACKENDS, 'file'):
        known = ', '.join(f'{each}://' for each in ('file', *BACKENDS))
        raise UserError(
            f'{text} cannot be used: what is read and written lies on this machine or at a URL '
            f'that begins with {known}. Copy what is elsewhere to one of these first.'
        )
    parts = rest.rstrip('/').split('/')
    if scheme == 'file' or slashes == '/' or {'', '.', '..'} & set(parts):
        meant = '/'.join(part for part in parts if part not in ('', '.', '..')) or 'bucket/folder'
        meant = f'file:///{meant}' if scheme == 'file' else f'{scheme}://{meant}'
        raise UserError(f'{text} is not the URL of a folder; did you mean {meant}?')
    file_system(f'{scheme}://{parts[0]}')
    return _mirror().joinpath(scheme, *parts)


def url_of(path: Path) -> str:
    """The URL whose working copy a path is, '' for any other path."""
    try:
        scheme, bucket, *parts = path.absolute().relative_to(_mirror()).parts
    except ValueError:
        return ''
    return f'{scheme}://{"/".join((bucket, *parts))}'


def name_of(path: Path) -> str:
    """What users call a path: its URL, or where it lies."""
    return url_of(path) or str(path)


def file_system(url: str) -> tuple:
    """(fsspec's file system, path in it); UserError without the package that it needs."""
    package = BACKENDS[url.partition(':')[0]]
    try:
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise UserError(
            f'{url} needs the package {package} ({error}). Install it: pip install {package}'
        ) from None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[tuple]:
    """file_system of the URL of `path`; whatever it raises becomes a UserError."""
    with _told(path, 'read', 'what was brought is kept'):
        yield file_system(url_of(path))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[tuple]:
    """The same, to write there."""
    with _told(path, 'written', f'nothing is lost: {path} has what was to go there'):
        yield file_system(url_of(path))


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time brings a path or copies it up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f'.{path.name}.lock'), 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def each(do: Callable, items: Iterable) -> None:
    """`do(item)` of all items in threads; the first error ends it."""
    threads = ThreadPoolExecutor(THREADS)
    try:
        for done in [threads.submit(do, item) for item in items]:
            done.result()
    finally:
        threads.shutdown(cancel_futures=True)


def found_below(fs, root: str) -> dict[str, dict]:
    """What a file system tells of every file below `root`, by path from there ('': `root` is a
    file itself)."""
    infos = fs.find(root, detail=True)
    below = {name[len(root) :].lstrip('/'): infos[name] for name in infos if name[-1] != '/'}
    for name in below:
        check_inside(name, root)
    return below


def check_inside(name: str, root: str) -> None:
    """UserError for the name of a file that would come to lie outside of its folder."""
    if name.startswith('/') or '..' in PurePosixPath(name).parts:
        raise UserError(f'{root} names a file {name!r}, which lies outside of it; remove it there.')


def _mirror() -> Path:
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('CXR_JAX_MIRROR') or Path(home, 'cxr_jax', 'mirror')).resolve()


@contextlib.contextmanager
def _told(path: Path, done: str, kept: str) -> Iterator[None]:
    try:
        yield
    except (UserError, *DEFECTS):
        raise
    except Exception as error:  # each backend has types of its own
        words = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'{url_of(path)} cannot be {done} ({words}). Look at the URL, the permissions, the '
            f'network and the room on the disk, then start the same command again; {kept}.'
        ) from error
