"""What looks at the stages of a run while they train: no key knows of it."""

import dataclasses
import pathlib

from cxr_jax.store.settings import setting
from cxr_jax.train.monitor import Health, Monitor
from cxr_jax.train.probing import Probes
from cxr_jax.train.stage import Stage


@dataclasses.dataclass(frozen=True)
class MonitorSettings:
    """The section `monitor` of a run's settings."""

    # Looks at the embeddings of training batches, evenly over a stage, one an epoch at least; 0 =
    # none.
    health_looks: int = setting(40, at_least=0)
    # What follows when embeddings or clusters have collapsed: a warning, or the end of the run.
    on_collapse: str = setting('warn', one_of=('warn', 'stop'))
    # Epochs between two probes of the frozen features on the validation images; 0 = none.
    probe_epochs: int = setting(0, at_least=0)
    # At the end of the run: what each stage forgets of the earlier ones.
    retention: bool = False


def monitors_of(
    settings: MonitorSettings, mesh, stage: Stage, directory: pathlib.Path
) -> list[Monitor]:
    """The monitors of a stage that trains in `directory`."""
    found: list[Monitor] = []
    if settings.health_looks:
        found.append(Health(stage, directory, settings.health_looks, settings.on_collapse))
    if settings.probe_epochs:
        found.append(Probes(stage, directory, settings.probe_epochs, mesh))
    return found
