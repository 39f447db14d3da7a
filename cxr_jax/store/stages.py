"""Stage directories named after everything that determines their content.

A stage trains in `<task>-<key>.partial/` and is renamed to `<task>-<key>/` when it is complete, so
a directory without the suffix is a finished stage, whatever killed a process before.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

from cxr_jax.store.claim import Claim
from cxr_jax.store.files import rename, write_json

MANIFEST = 'manifest.json'
SESSIONS = 'sessions.json'  # written when training begins


def content_key(content: dict) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of `content`."""
    canonical = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class StageDirectory:
    """Where one stage lives: `partial` while it trains, `finished` afterwards."""

    store: pathlib.Path
    task: str
    key: str

    @property
    def finished(self) -> pathlib.Path:
        return self.store / f'{self.task}-{self.key}'

    @property
    def partial(self) -> pathlib.Path:
        return self.store / f'{self.task}-{self.key}.partial'

    def manifest(self) -> dict:
        """The finished stage's manifest."""
        return json.loads((self.finished / MANIFEST).read_text())

    def claim(self) -> Claim:
        """Keeps other processes, here and on other hosts, from training or replacing this stage."""
        self.store.mkdir(parents=True, exist_ok=True)
        # Beside the directories, which are renamed while another process may be opening them.
        return Claim(self.store / f'.{self.finished.name}', f'the stage {self.partial}')

    def finish(self, manifest: dict) -> None:
        """Writes the manifest, forces it to disk and gives the directory its final name."""
        write_json(self.partial / MANIFEST, manifest)
        rename(self.partial, self.finished)

    def discard(self) -> pathlib.Path:
        """Sets a finished stage aside whose content is broken; returns where it went."""
        aside = self.finished.with_name(self.finished.name + '.broken')
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(self.finished, aside)
        return aside
