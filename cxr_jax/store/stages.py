"""Stage directories named after everything that determines their content.

A stage trains in `<name>-<key>.partial/` and is renamed to `<name>-<key>/` when it is complete, so
a directory without the suffix is a finished stage, whatever killed a process before. Finished, it
is a bundle (see cxr_jax.store.bundle) beside its log and the small files of its search.

Of a store at a URL all this happens in the working copy (see data_pipelines.storage): a stage that
is missing is brought from there under its claim, and copied there when it is finished or stopped.
"""

import contextlib
import dataclasses
import pathlib
import re
import shutil
from collections.abc import Iterable

from cxr_jax.store.bundle import BUNDLE, read_description, read_parts, write_bundle
from cxr_jax.store.claim import Claim
from cxr_jax.store.files import exists, rename, set_aside
from data_pipelines.storage import units

SESSIONS = 'sessions.json'  # written when training begins
KEEP = ('bundle', 'all')
STEP = re.compile(r'(.*)checkpoints/(\d+)/')
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
        units.settle(self.finished, BUNDLE)
        units.remove(self.partial)
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
        units.settle(self.finished, BUNDLE)  # after an error of the network
        return description, parts

    def description(self) -> dict | None:
        """The finished stage's bundle.json, None if there is no finished stage."""
        return read_description(self.finished) if exists(self.finished) else None

    def bring(self) -> None:
        """Brings from the store's URL what is missing here: the finished stage, or an unfinished
        one of which more was saved there. The caller has the claim."""
        if exists(self.finished):
            return
        try:
            if units.pull(self.finished, BUNDLE):
                return
            here = [path.relative_to(self.partial).as_posix() for path in self.partial.rglob('*')]
            if _steps_saved(units.listed(self.partial)) > _steps_saved(here):
                units.pull(self.partial, over=True)
        except units.Broken as reason:
            print(f'{reason} Now the stage is trained again, and replaces it.', flush=True)
        units.unsettle(self.partial)

    def copy_up(self) -> None:
        """Copies the unfinished stage to the store's URL, for another machine to go on with."""
        units.push(self.partial)

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


def _steps_saved(files: Iterable[str]) -> int:
    """Steps of the newest checkpoints among the files of an unfinished stage and its trials."""
    newest = {}
    for match in filter(None, map(STEP.match, files)):
        newest[match[1]] = max(newest.get(match[1], 0), int(match[2]))
    return sum(newest.values())
