"""What a stage's distillation starts from: checked when the run is planned."""

import pathlib

from cxr_jax.run.settings import RunSettings
from cxr_jax.store.bundle import read_description
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.tasks.distil import LWF, NONE, Distillation
from cxr_jax.train.stage import StageSettings
from data_pipelines.errors import UserError

WEIGHTS = 'a file of weights'


def before_the_first(run: RunSettings) -> str | None:
    """What left the parts that a run starts from: a task, WEIGHTS, or None for a fresh encoder."""
    weights = run.encoder.weights
    if not weights:
        return None
    folder = pathlib.Path(weights)
    return read_description(folder)['task'] if folder.is_dir() else WEIGHTS


def distillation_of(
    name: str, settings: StageSettings, before: str | None, frozen: dict
) -> Distillation | None:
    """The distillation of a stage, None for none; `before` as in before_the_first, `frozen` as of
    its task.

    UserError where the stage before has not left what it needs, or where nothing could be kept.
    """
    asked = f'--config.stage.{name}.distil={settings.distil}'
    if settings.distil == NONE:
        return None
    if before is None:
        raise UserError(
            f'{asked} keeps what the stage before has learnt, and {name} is the first stage of a '
            'fresh encoder. Set it to none, put a stage before it, or start from a finished one '
            '(--config.encoder.weights=<its folder>).'
        )
    if frozen.get('encoder', 0) is None:
        raise UserError(
            f'{asked} has no effect: {name} leaves the encoder as it is. Set it to none.'
        )
    known = TASKS | READOUTS
    heads = [each for each, task in known.items() if task.linear_head]
    if settings.distil == LWF and before not in heads:
        raise UserError(
            f'{asked} keeps the answers of a linear head, and what {name} starts from was left by '
            f'{before}, which has none. It can follow {", ".join(heads)}; features and cassle can '
            'follow any task.'
        )
    exclusive = getattr(known.get(before), 'exclusive', True)
    return Distillation(
        settings.distil, settings.distil_weight, settings.distil_temperature, exclusive
    )
