"""Raw files at a URL, brought one by one: whoever put them there made no list of them."""

import datetime
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.storage.places import alone, each, found_below, reading, url_of

CHANGED = ('mtime', 'LastModified', 'updated', 'created')  # what file systems call it


def pull_files(path: Path) -> None:
    """Makes `path`, a folder or one file, what is at its URL: by names, sizes and times of change.

    UserError if nothing is there. Does nothing for a path without a URL.
    """
    if not url_of(path):
        return
    with alone(path), reading(path) as (fs, root):
        found = found_below(fs, root)
        if not found:
            raise UserError(f'There is nothing at {url_of(path)}; name another URL.')
        missing = [name for name, info in found.items() if not _is_same(path / name, info)]
        if missing:
            size = sum(found[name]['size'] for name in missing)
            told = f'Bringing {len(missing)} files ({size / 1e9:.2f} GB) of {url_of(path)} to'
            print(told, path, file=sys.stderr, flush=True)
        each(lambda name: _fetch(fs, found[name], path / name), missing)
        # What had been brought and is no longer there; other files here are not the URL's.
        record = path.with_name(f'.{path.name}.brought.json')
        before = json.loads(record.read_text()) if record.is_file() else []
        for name in set(before) - found.keys():
            (path / name).unlink(missing_ok=True)
        record.write_text(json.dumps(sorted(found)))


def _changed(info: Mapping) -> int | None:
    """When a file at a URL was changed, ns since 1970 in whole microseconds; None if unknown."""
    when = next((info[name] for name in CHANGED if info.get(name)), None)
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when)
    if isinstance(when, datetime.datetime):
        when = when.timestamp()
    return when and round(when * 1e6) * 1000


def _is_same(path: Path, info: Mapping) -> bool:
    if not path.is_file():
        return False
    status = path.stat()
    return status.st_size == info['size'] and _changed(info) in (None, status.st_mtime_ns)


def _fetch(fs, info: Mapping, path: Path) -> None:
    """Brings one file, with the time of its change there: preparing goes by it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f'.{path.name}.pulled')
    fs.get_file(info['name'], str(fresh))
    if fresh.stat().st_size != info['size']:
        raise UserError(f'{url_of(path)} changed while it was read; start again.')
    when = _changed(info)
    if when:
        os.utime(fresh, ns=(when, when))
    os.replace(fresh, path)
