"""Names of folders, and small files that are there whole or not at all."""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

NAME = re.compile(r'[A-Za-z0-9][\w.-]*')  # of a prepared set, of a sidecar of masks


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A new empty file beside `path` to be filled, which takes its place unless an error comes.

    Of several processes that do so at once, of any machine, the last one stays. `mode`: who may
    read it from the start, less the umask.
    """
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
    os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
