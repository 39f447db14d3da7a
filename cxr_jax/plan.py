"""From a config to stages that can run: `auto` resolved, impossibilities told, nothing compiled."""

import dataclasses
import hashlib
import pathlib

from cxr_jax.models.backbone import compute_dtype
from cxr_jax.models.resnet import EXPANSION
from cxr_jax.provenance import plain
from cxr_jax.stage import Stage
from cxr_jax.stage_store import content_key
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.base import Facts
from cxr_jax.tasks.settings import from_settings, to_settings
from cxr_jax.views.region import REGIONS, needs_masks
from data_pipelines.errors import UserError

# Part of every stage's key: raised when the same settings come to mean something else.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages in order, the config with nothing `auto` in it, and why each value was chosen."""

    stages: list[Stage]
    notes: dict[str, list[str]]  # per stage: 'queue_size = 448 (reason)'


def make_plan(config, data, devices: int) -> Plan:
    """Resolves `config` (unlocked copy, changed in place) against the prepared data."""
    check_config(config, devices)
    check_data(config, data)
    stages, notes, parent = [], {}, None
    for name in (*config.curriculum, 'classify'):
        stage, notes[name] = _plan_stage(name, config, data, devices, parent)
        stages.append(stage)
        parent = stage.key
    return Plan(stages, notes)


def check_config(config, devices: int) -> None:
    """UserError for a value outside its range, whatever the data."""
    _one_of('data.region', config.data.region, REGIONS)
    _one_of('backbone.depth', config.backbone.depth, EXPANSION)
    _one_of('backbone.channels', config.backbone.channels, (1, 3))
    _one_of('backbone.dtype', config.backbone.dtype, ('auto', 'bfloat16', 'float32'))
    _at_least('backbone.width', config.backbone.width, 1)
    _at_least('seed', config.seed, 0)
    _at_least('eval.resamples', config.eval.resamples, 1)
    _check_batch('eval.batch_size', config.eval.batch_size, devices)
    for name, stage in config.stage.items():
        where = f'stage.{name}'
        _check_batch(f'{where}.batch_size', stage.batch_size, devices)
        _at_least(f'{where}.epochs', stage.epochs, 1)
        _at_least(f'{where}.task.image_size', stage.task.image_size, 1)
        _at_least(f'{where}.checkpoint_epochs', stage.checkpoint_epochs, 0)
        _at_least(f'{where}.optimizer.lr', stage.optimizer.lr, 0)
        _at_least(f'{where}.optimizer.warmup_epochs', stage.optimizer.warmup_epochs, 0)
        _one_of(f'{where}.optimizer.name', stage.optimizer.name, ('sgd', 'lars'))
        schedules = ('cosine', 'step', 'constant')
        _one_of(f'{where}.optimizer.schedule', stage.optimizer.schedule, schedules)
        milestones = stage.optimizer.milestones
        if not all(isinstance(m, int | float) for m in milestones):
            raise UserError(
                f'--config.{where}.optimizer.milestones={milestones} must be numbers, as '
                f'"--config.{where}.optimizer.milestones=(0.6, 0.8)".'
            )


def _one_of(where: str, value, known) -> None:
    if value not in known:
        choices = ', '.join(map(str, known))
        raise UserError(f'--config.{where}={value} is not known; choose one of {choices}.')


def _at_least(where: str, value: float, least: int) -> None:
    if value < least:
        raise UserError(f'--config.{where}={value} is too small; it must be {least} or more.')


def _check_batch(where: str, batch: int, devices: int) -> None:
    _at_least(where, batch, 1)
    if batch % devices:
        raise UserError(
            f'--config.{where}={batch} is not a multiple of the {devices} devices; use '
            f'{max(batch // devices, 1) * devices}.'
        )


def check_data(config, data) -> None:
    """UserError for a region without masks or a class without training images."""
    region = config.data.region
    if needs_masks(region) and not data.has_lung_masks:
        raise UserError(
            f'The region {region} needs a lung mask for every image, and {data.directory} has '
            'images without one. Prepare the data with masks (<source>/lung_masks/<image>.png, or '
            'a lung_mask column in the csv), or use --config.data.region=full.'
        )
    if not data.counts['test']:
        raise UserError(
            f'The test split of {data.directory} is empty, so nothing could be evaluated. Prepare '
            'the data again with more patients, or with a splits.csv that has test patients.'
        )
    unlabelled = data.counts['train'] - sum(data.class_counts['train'])
    if data.classes and unlabelled:
        raise UserError(
            f'{unlabelled} of the {data.counts["train"]} training images of {data.directory} have '
            'no label, so the classifier cannot learn from them. Give them a label in the csv, or '
            'leave them out, and prepare again.'
        )
    for name, count in zip(data.classes, data.class_counts['train'], strict=True):
        if not count:
            raise UserError(
                f'The class {name} has no image in the training split of {data.directory}, so it '
                'cannot be learnt. Add images of it, or leave the class out, and prepare again.'
            )


def _plan_stage(name: str, config, data, devices: int, parent: str | None):
    settings, images = config.stage[name], data.counts['train']
    batch = settings.batch_size
    if batch > images:
        fitting = images // devices * devices
        advice = f'use {fitting} or less' if fitting else f'there must be {devices} or more'
        raise UserError(
            f'--config.stage.{name}.batch_size={batch} is larger than the training split of '
            f'{data.directory} ({images} images); {advice}.'
        )
    default = TASKS[name]()
    task = from_settings(default, settings.task, f'stage.{name}.task')
    facts = Facts(
        images=images,
        batch_size=batch,
        steps_per_epoch=images // batch,
        devices=devices,
        feature_width=8 * config.backbone.width * EXPANSION[config.backbone.depth],
        classes=data.classes,
    )
    try:
        task, reasons = task.resolve(facts)
    except UserError as error:
        raise UserError(f'Stage {name} (--config.stage.{name}.task): {error}') from None
    settings.task.update(to_settings(task))
    notes = [
        f'{field} = {getattr(task, field)} ({reason})'
        for field, reason in reasons.items()
        if reason
    ]
    content = _content(name, settings, task, config, data, parent)
    stage = Stage(
        name=name,
        task=task,
        config=settings,
        facts=facts,
        region=config.data.region,
        seed=config.seed,
        content=content,
        key=content_key(content),
        parent_key=parent,
    )
    return stage, notes


def _content(name, settings, task, config, data, parent) -> dict:
    """Everything that determines a stage's result, as plain JSON."""
    result = settings.to_dict()
    del result['checkpoint_epochs']
    backbone = config.backbone.to_dict() | {'dtype': compute_dtype(config.backbone.dtype)}
    if parent is None and config.backbone.weights:
        backbone['weights'] = file_hash(config.backbone.weights)
    elif parent is not None:
        del backbone['weights']
    return {
        'format': FORMAT,
        'task': name,
        'settings': plain(result | {'task': dataclasses.asdict(task)}),
        'backbone': backbone,
        'input': data.contract(config.data.region),
        'data': data.fingerprint,
        'seed': config.seed,
        'parent': parent,
    }


def file_hash(path: str) -> str:
    """SHA-256 of a file; UserError if it cannot be read."""
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f'--config.backbone.weights={path} cannot be read ({error.strerror}).'
        ) from None

