"""Stage directories named after everything that determines their content.

A stage trains in `<name>-<key>.partial/` and is renamed to `<name>-<key>/` when it is complete, so
a directory without the suffix is a finished stage, whatever killed a process before. Finished, it
is a bundle (see cxr_jax.store.bundle) beside its log and the small files of its search.
"""

import contextlib
import dataclasses
import pathlib
import shutil

from cxr_jax.store.bundle import read_description, read_parts, write_bundle
from cxr_jax.store.claim import Claim
from cxr_jax.store.files import exists, rename, set_aside

SESSIONS = 'sessions.json'  # written when training begins
KEEP = ('bundle', 'all')
# What only resuming needs: large.
PRUNED = ('checkpoints*', 'best*', 'trials/*/checkpoints*', '.*.tmp', 'trials/*/.*.tmp')


@dataclasses.dataclass(frozen=True)
class StageDirectory:
    """Where one stage lives: `partial` while it trains, `finished` afterwards."""

    store: pathlib.Path
    name: str
    key: str

    @property
    def finished(self) -> pathlib.Path:
        return self.store / f'{self.name}-{self.key}'

    @property
    def partial(self) -> pathlib.Path:
        return self.store / f'{self.name}-{self.key}.partial'

    def claim(self) -> Claim:
        """Keeps other processes, here and on other hosts, from training or replacing this stage."""
        self.store.mkdir(parents=True, exist_ok=True)
        # Beside the directories, which are renamed while another process may be opening them.
        return Claim(self.store / f'.{self.finished.name}', f'the stage {self.partial}')

    def finish(self, parts: dict[str, dict], description: dict, keep: str = 'bundle') -> dict:
        """Writes the bundle, gives the directory its final name, prunes; the whole description.

        keep='all' leaves checkpoints and trials where they are, now and at every later load.
        """
        if keep not in KEEP:
            raise ValueError(f'keep={keep!r} is none of {KEEP}')
        description = write_bundle(self.partial, parts, description | {'keep': keep})
        rename(self.partial, self.finished)
        self._prune(description)
        return description

    def load(self, names: tuple[str, ...] | None = None) -> tuple[dict, dict] | None:
        """(description, parts) of the finished stage as read_parts has them; None without one.

        Prunes what a process killed in `finish` left. Raises as cxr_jax.store.bundle says.
        """
        description = self.description()
        if description is None:
            return None
        parts = read_parts(self.finished, names)
        self._prune(description)
        return description, parts

    def description(self) -> dict | None:
        """The finished stage's bundle.json, None if there is no finished stage."""
        return read_description(self.finished) if exists(self.finished) else None

    def discard(self) -> pathlib.Path:
        """Sets a finished stage aside whose content is damaged; returns where it went."""
        return set_aside(self.finished)

    def _prune(self, description: dict) -> None:
        """Removes checkpoints, also of trials, unless they are to be kept; may be repeated."""
        if description.get('keep') != 'bundle':
            return
        for pattern in PRUNED:
            # A store that may only be read, or another process that prunes it too.
            with contextlib.suppress(OSError):
                for path in self.finished.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
