"""What would make a run impossible or meaningless, told before anything compiles."""

import itertools
from collections.abc import Iterable, Sequence

import jax

from cxr_jax.models.encoder import Contract, Encoder
from cxr_jax.run.corpora import Data
from cxr_jax.runtime import parallel
from cxr_jax.store.bundle import check_fit
from cxr_jax.tasks.base import Facts, Task
from cxr_jax.train.stage import Labelled, Stage
from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus, LeftOut


def check_batch(where: str, batch: int, devices: int) -> None:
    """UserError for a batch that the devices cannot share equally."""
    if batch % devices:
        raise UserError(
            f'--config.{where}={batch} is not a multiple of the {devices} devices; use '
            f'{max(batch // devices, 1) * devices}.'
        )


def check_contract(contract: Contract, corpora: Iterable[Corpus]) -> None:
    """UserError for images of other bits than the encoder was built for (also, they would not be
    recognised as copies of each other), and for colour that it would not see."""
    for corpus in corpora:
        if corpus.bits != contract.bits:
            raise UserError(
                f'{corpus.title} has images of {corpus.bits} bits, and the encoder is built for '
                f'{contract.bits} bits, those of the images that it is trained on first. Prepare '
                f'the data again with --bits {contract.bits}, or name other sets.'
            )
        if corpus.channels > contract.channels:
            raise UserError(
                f'{corpus.title} has images in colour, and the encoder sees grey ones. Give it '
                'three channels (--config.encoder.channels=3), or prepare the images with '
                '--dataset image_folder, which makes them grey.'
            )


def check_images(
    data: Data,
    images: dict[str, tuple[Labelled, LeftOut]],
    tested: Labelled | None,
    validation: Labelled | None,
) -> None:
    """UserError for a region without masks, an empty split, a class without training images.

    images: what each stage trains on, and what was left out of it.
    """
    run = data.settings.run
    for corpus in [train.corpus for train, _ in images.values()]:
        if run.data.region != 'full' and not corpus.has_lung_masks:
            raise UserError(
                f'The region {run.data.region} needs a lung mask for every image, and '
                f'{corpus.title} has images without one. Let a segmenter write them (python -m '
                'cxr_jax.segment, then --config.data.masks=NAME), prepare the data with masks '
                '(<source>/lung_masks/<image>.png, or a lung_mask column in the csv), or use '
                '--config.data.region=full.'
            )
    for name, (train, left_out) in images.items():
        if not train.images:
            left = ', as their patient or their content is validated or tested on'
            raise UserError(
                f'No image is left for stage {name} to train on'
                + (f' ({left_out.images} were left out{left})' if left_out.images else '')
                + f'; prepare more, or name other sets (--config.stage.{name}.data.sets).'
            )
    if tested is not None:
        _check_labels(data, images[data.settings.readout][0], tested)
    _check_judged(data, validation)
    _check_probed(data, validation)


def _check_labels(data: Data, train: Labelled, tested: Labelled) -> None:
    target, own, readout = data.target, data.own, data.settings.readout
    if data.settings.stages[readout].task.exclusive not in (None, target.exclusive):
        kinds = ('one class an image', 'classify'), ('several findings an image', 'findings')
        kind, other = kinds[not target.exclusive]
        raise UserError(
            f'{own.directory} has {kind}, which the readout {readout} does not predict; write '
            f'readout={other} into the argument of the config.'
        )
    if not tested.images:
        raise UserError(
            f'The test split of {own.directory} has no labelled image, so nothing could be '
            'evaluated. Prepare the data again with more patients, or with a splits.csv that has '
            'test patients; or end the run without a readout (readout=none).'
        )
    for name, count in zip(target.names, target.counts(train.corpus), strict=True):
        if not count:
            what = 'class' if target.exclusive else 'finding'
            raise UserError(
                f'The {what} {name} has no image among the {train.images} labelled images of '
                f'{train.corpus.title} that are trained on, so it cannot be learnt. Add images of '
                'it, or leave it out (--config.data.classes).'
            )


def _check_judged(data: Data, validation: Labelled | None) -> None:
    """UserError if images of the validation split decide something, and there are none."""
    settings = data.settings
    judged = [name for name, stage in settings.stages.items() if stage.judged]
    if not judged:
        return
    unlabelled = settings.readout in judged and not validation.images
    if any(splits is None or not len(splits.validation) for splits in data.splits) or unlabelled:
        raise UserError(
            'There are no validation images, and the search or the early stopping of '
            f'{", ".join(judged)} is judged by them. Prepare the data with more patients, or '
            f'switch both off (--config.stage.{judged[0]}.search.protocol=off, .early_stop.by=none '
            'or one of rank, sigreg).'
        )


def _check_probed(data: Data, validation: Labelled | None) -> None:
    """UserError if frozen features are to be probed without labelled validation images."""
    settings = data.settings
    asked = [
        f'--config.stage.{name}.early_stop.by=probe'
        for name, stage in settings.stages.items()
        if stage.early_stop.by == 'probe'
    ]
    if settings.run.monitor.probe_epochs:
        asked.append(f'--config.monitor.probe_epochs={settings.run.monitor.probe_epochs}')
    if asked and (validation is None or not validation.images):
        raise UserError(
            f'{asked[0]} reads frozen features out on labelled validation images, and this run has '
            'none. Give it a readout and a set with validation images (of cross-validation, only '
            'a run in which a search or early stopping needs them has any), or leave it out.'
        )


def check_batch_fits(name: str, batch: int, train: Labelled, devices: int) -> None:
    """UserError for a stage whose batch is larger than what it trains on."""
    if batch > train.images:
        fitting = train.images // devices * devices
        advice = f'use {fitting} or less' if fitting else f'there must be {devices} or more'
        raise UserError(
            f'--config.stage.{name}.batch_size={batch} is larger than what it trains on '
            f'({train.images} images of {train.corpus.title}); {advice}.'
        )


def check_input(name: str, pixels: int, encoder: Encoder) -> None:
    """UserError for a stage that gives the network smaller images than it can see."""
    if pixels < encoder.smallest_image:
        raise UserError(
            f'Stage {name} gives the network images of {pixels} pixels; {encoder.settings.name} '
            f'needs {encoder.smallest_image} or more. Enlarge '
            f'--config.stage.{name}.task.image_size, or use a ResNet '
            '(--config.encoder.name=resnet18).'
        )


def check_memory(name: str, task: Task, devices: int) -> None:
    """UserError for a memory of all images that the devices cannot share equally."""
    if task.by_image and parallel.ROWS % devices:
        raise UserError(
            f'Stage {name} spreads its memory of all images over the devices, whose number must '
            f'divide {parallel.ROWS}; there are {devices}. Use fewer of them.'
        )


def check_early_stop(name: str, by: str, task: Task, facts: Facts) -> None:
    """UserError for a criterion that tells nothing of what the stage changes."""
    where = f'--config.stage.{name}.early_stop.by={by}'
    if by in ('probe', 'rank', 'sigreg') and task.frozen(facts).get('encoder', 0) is None:
        raise UserError(
            f'{where} judges the encoder, which {name} leaves as it is. Use loss, or none.'
        )
    if by == 'loss' and getattr(task, 'classwise', None) and task.classwise.on:
        raise UserError(
            f'{where} compares losses over different classes, as classwise.order='
            f'{task.classwise.order} adds them one by one. Use probe, or none.'
        )


def check_handed_over(stages: Sequence[Stage]) -> None:
    """UserError where a stage goes on with a part, beside the encoder, that has another shape
    in the stage before, as a decoder of another width."""
    for before, after in itertools.pairwise(stages):
        for part in (set(before.task.leaves) & set(after.task.takes)) - {'encoder'}:
            left, taken = (_shapes(stage, part) for stage in (before, after))
            check_fit(left, taken, f'{part} that stage {before.name} leaves for {after.name}')


def _shapes(stage: Stage, part: str) -> dict:
    """{'params', 'batch_stats'} of a part of the stage's own, with shapes for arrays."""

    def init():
        key, size = jax.random.key(0), stage.task.image_size
        params, batch_stats = stage.encoder.init(key, size)
        encoder = {'encoder': {'params': params, 'batch_stats': batch_stats}}
        return stage.task.init(key, stage.encoder, encoder)

    params, batch_stats, _ = jax.eval_shape(init)
    return {'params': params[part], 'batch_stats': batch_stats[part]}
