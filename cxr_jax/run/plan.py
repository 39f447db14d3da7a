"""From a config to stages that can run: `auto` resolved, impossibilities told, nothing compiled."""

import dataclasses
import hashlib
import pathlib

from ml_collections import ConfigDict

from cxr_jax.models.encoder import (
    DEPTHS,
    compute_dtype,
    feature_width,
    network_name,
    smallest_image,
)
from cxr_jax.run.search import PROTOCOLS, candidate_rates
from cxr_jax.store.provenance import plain
from cxr_jax.store.settings import from_settings, to_settings
from cxr_jax.store.stages import content_key
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.base import Facts
from cxr_jax.train.stage import Search, Stage, stage_seed
from cxr_jax.views.region import REGIONS, needs_masks
from data_pipelines.errors import UserError

CLASSIFIER = 'classify'
# Part of every stage's key: raised when the same settings come to mean something else.
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages in order, the config with nothing `auto` in it, and why each value was chosen."""

    stages: list[Stage]
    notes: dict[str, list[str]]  # per stage: 'queue_size = 448 (reason)'


def make_plan(config, data, devices: int) -> Plan:
    """Resolves `config` (unlocked copy, changed in place) against the prepared data."""
    check_config(config, devices)
    labelled = data.of_classes(config.data.classes) if config.data.classes else data
    check_data(config, data, labelled)
    stages, notes, parent = [], {}, None
    for name in (*config.curriculum, CLASSIFIER):
        # The pretext tasks see every image, whatever the classes that are told apart later.
        used = labelled if name == CLASSIFIER else data
        stage, notes[name] = _plan_stage(name, config.stage[name], config, used, devices, parent)
        stages.append(stage)
        parent = stage.key
    return Plan(stages, notes)


def check_config(config, devices: int) -> None:
    """UserError for a value outside its range, whatever the data."""
    _one_of('data.region', config.data.region, REGIONS)
    _one_of('backbone.depth', config.backbone.depth, DEPTHS)
    _one_of('backbone.channels', config.backbone.channels, (1, 3))
    _one_of('backbone.dtype', config.backbone.dtype, ('auto', 'bfloat16', 'float32'))
    _at_least('backbone.width', config.backbone.width, 1)
    _at_least('seed', config.seed, 0)
    if not 0 <= config.data.on_device <= 1:
        raise UserError(
            f"--config.data.on_device={config.data.on_device} is a share of a device's memory, "
            '0 (images are streamed) to 1.'
        )
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
        _check_search(f'{where}.search', stage.search, stage.epochs)
        _one_of(f'{where}.optimizer.name', stage.optimizer.name, ('sgd', 'lars'))
        schedules = ('cosine', 'step', 'constant')
        _one_of(f'{where}.optimizer.schedule', stage.optimizer.schedule, schedules)
        milestones = stage.optimizer.milestones
        if not all(isinstance(m, int | float) for m in milestones):
            raise UserError(
                f'--config.{where}.optimizer.milestones={milestones} must be numbers, as '
                f'"--config.{where}.optimizer.milestones=(0.6, 0.8)".'
            )


def _check_search(where: str, search, epochs: int) -> None:
    _one_of(f'{where}.protocol', search.protocol, PROTOCOLS)
    if search.protocol == 'off':
        return
    _at_least(f'{where}.count', search.count, 1)
    _at_least(f'{where}.epochs', search.epochs, 1)
    if not 0 < search.low <= search.high:
        raise UserError(
            f'--config.{where}.low={search.low} and .high={search.high} must be above 0, the lower '
            'one first.'
        )
    if not 0 < search.fraction <= 1:
        raise UserError(f'--config.{where}.fraction={search.fraction} must be in (0, 1].')
    if search.protocol != 'sampled' and search.epochs > epochs:
        raise UserError(
            f'--config.{where}.epochs={search.epochs} is more than the {epochs} epochs of the '
            'stage, which the winner of a search goes on to; lower it.'
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


def check_data(config, data, labelled) -> None:
    """UserError for a region without masks, an empty split or a class without training images.

    `labelled`: the images of the chosen classes, on which the classifier trains.
    """
    region = config.data.region
    if needs_masks(region) and not data.has_lung_masks:
        raise UserError(
            f'The region {region} needs a lung mask for every image, and {data.directory} has '
            'images without one. Let a segmenter write them (python -m cxr_jax.segment, then '
            '--config.data.masks=NAME), prepare the data with masks '
            '(<source>/lung_masks/<image>.png, or a lung_mask column in the csv), or use '
            '--config.data.region=full.'
        )
    if not labelled.counts['test']:
        raise UserError(
            f'The test split of {data.directory} is empty, so nothing could be evaluated. Prepare '
            'the data again with more patients, or with a splits.csv that has test patients.'
        )
    searched = [name for name, stage in config.stage.items() if stage.search.protocol != 'off']
    if searched and not labelled.counts['validation']:
        raise UserError(
            f'The validation split of {data.directory} is empty, and the search of '
            f'{", ".join(searched)} is judged by it. Prepare the data with more patients, or '
            f'switch the search off (--config.stage.{searched[0]}.search.protocol=off).'
        )
    unlabelled = labelled.counts['train'] - sum(labelled.class_counts['train'])
    if data.classes and unlabelled:
        raise UserError(
            f'{unlabelled} of the {data.counts["train"]} training images of {data.directory} have '
            'no label, so the classifier cannot learn from them. Give them a label in the csv, or '
            'leave them out, and prepare again.'
        )
    for name, count in zip(labelled.classes, labelled.class_counts['train'], strict=True):
        if not count:
            raise UserError(
                f'The class {name} has no image in the training split of {data.directory}, so it '
                'cannot be learnt. Add images of it, or leave the class out, and prepare again.'
            )


def _plan_stage(name: str, settings, config, data, devices: int, parent: str | None):
    """(Stage with its trials, notes); `settings` is changed in place where it says `auto`."""
    images, batch = data.counts['train'], settings.batch_size
    if batch > images:
        fitting = images // devices * devices
        advice = f'use {fitting} or less' if fitting else f'there must be {devices} or more'
        raise UserError(
            f'--config.stage.{name}.batch_size={batch} is larger than the training split of '
            f'{data.directory} ({images} images); {advice}.'
        )
    asked = ConfigDict(settings.to_dict())
    default = TASKS[name]()
    task = from_settings(default, settings.task, f'stage.{name}.task')
    facts = Facts(
        images=images,
        batch_size=batch,
        steps_per_epoch=images // batch,
        devices=devices,
        feature_width=feature_width(config.backbone.depth, config.backbone.width),
        classes=data.classes,
    )
    try:
        task, reasons = task.resolve(facts)
    except UserError as error:
        raise UserError(f'Stage {name} (--config.stage.{name}.task): {error}') from None
    depth = config.backbone.depth
    if task.smallest_input < smallest_image(depth):
        raise UserError(
            f'Stage {name} gives the network images of {task.smallest_input} pixels; '
            f'{network_name(depth)} needs {smallest_image(depth)} or more. Enlarge '
            f'--config.stage.{name}.task.image_size, or use a ResNet (--config.backbone.depth=18).'
        )
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
        data=data,
        region=config.data.region,
        seed=config.seed,
        content=content,
        key=content_key(content),
        parent_key=parent,
        on_device=config.data.on_device,
    )
    if settings.search.protocol == 'off':
        return stage, notes
    search, told = _plan_search(name, asked, config, data, devices, parent)
    return dataclasses.replace(stage, search=search), [*notes, told]


def _plan_search(name: str, asked, config, data, devices: int, parent: str | None):
    """(Search with a Stage for every candidate, a line that tells them)."""
    search = asked.search
    rates = candidate_rates(search, stage_seed(config.seed, name))
    batches = tuple(search.batch_sizes) or (asked.batch_size,)
    sampled = search.protocol == 'sampled'
    part = data.share(search.fraction, stage_seed(config.seed, name)) if sampled else data
    trials, winners = [], []
    for batch in batches:
        _check_batch(f'stage.{name}.search.batch_sizes', batch, devices)
        for rate in rates:
            settings = ConfigDict(asked.to_dict())
            settings.search.protocol = 'off'
            settings.batch_size, settings.optimizer.lr = batch, rate
            short = ConfigDict(settings.to_dict())
            winners.append(_plan_stage(name, settings, config, data, devices, parent)[0])
            if sampled:
                short.epochs = search.epochs
                trials.append(_plan_stage(name, short, config, part, devices, parent)[0])
    images = f' on {part.counts["train"]} images' if sampled else ''
    sizes = f', batches of {", ".join(map(str, batches))}' if search.batch_sizes else ''
    told = (
        f'search {search.protocol}: rates {", ".join(f"{rate:g}" for rate in rates)}{sizes}, '
        f'{search.epochs} epochs{images}'
    )
    found = Search(search.protocol, search.epochs, tuple(trials or winners), tuple(winners))
    return found, told


def _content(name, settings, task, config, data, parent) -> dict:
    """Everything that determines a stage's result, as plain JSON."""
    result = settings.to_dict()
    del result['checkpoint_epochs']
    backbone = config.backbone.to_dict() | {'dtype': compute_dtype(config.backbone.dtype)}
    del backbone['remat']
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

