"""A lung segmenter: its settings, the stage that trains it, the masks that it predicts."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from cxr_jax.models import lung_vae
from cxr_jax.models.encoder import Encoder, compute_dtype
from cxr_jax.models.unet import build_unet
from cxr_jax.run.settings import EvalSettings, check_stage
from cxr_jax.runtime import parallel
from cxr_jax.store.bundle import fit, read_description, read_parts
from cxr_jax.store.identity import active, key_of
from cxr_jax.store.settings import from_settings, setting, to_settings
from cxr_jax.tasks.base import Facts
from cxr_jax.tasks.segment import Segment, standardised
from cxr_jax.train.stage import Labelled, SearchSettings, Stage, StageSettings, stage_seed
from cxr_jax.views.geometry import resize
from cxr_jax.views.region import to_unit_range
from data_pipelines.errors import UserError
from data_pipelines.prepared import loader
from data_pipelines.prepared.corpus import Corpus, LeftOut

NAME = 'segment'
FOLD_SEED = 0  # folds are a property of the data

# Images [b, R, R, 1] as stored -> masks [b, R, R] bool, of a batch of any size up to its own.
Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class SegmentData:
    """The prepared set whose images have lung masks, or are to get some."""

    dir: str = setting('', result=False)  # folder of the prepared data sets; empty = `data`
    name: str = 'synthetic_cxr'
    size: int = setting(80, at_least=8)  # pixels of the prepared images


@dataclasses.dataclass(frozen=True)
class Network:
    """Of the U-Net."""

    width: int = setting(16, at_least=1)  # channels of the first feature map
    depth: int = setting(3, at_least=1)  # times the image is halved
    dtype: str = setting('auto', one_of=('auto', 'bfloat16', 'float32'))  # of the computation

    def build(self) -> Encoder:
        """The untrained network."""
        return build_unet(self.width, self.depth, self.dtype)

    def identity(self) -> dict:
        """What it is on this machine, as plain JSON."""
        return {'name': 'unet'} | active(self) | {'dtype': compute_dtype(self.dtype)}


@dataclasses.dataclass(frozen=True)
class SegmentSettings:
    """All settings of the programs `segment train` and `segment apply` but those of the stage."""

    preset: str = setting('', result=False)  # where the values come from
    seed: int = setting(0, at_least=0)  # of weights, views, order of the data and bootstrap
    store: str = setting('', result=False)  # trained stages; empty = `stages` beside the workdir
    keep: str = setting('bundle', one_of=('bundle', 'all'), result=False)  # of a finished stage
    folds: int = setting(0, at_least=0, neutral=0)  # train: cross-validate by patient; 0 = splits
    data: SegmentData = SegmentData()
    network: Network = Network()
    eval: EvalSettings = EvalSettings()


def make_config() -> ConfigDict:
    """The config of a segmenter: every field of its settings and of its stage."""
    config = ConfigDict(to_settings(SegmentSettings()))
    stage = ConfigDict(to_settings(StageSettings(task=Segment(image_size=80))))
    stage.update_from_flattened_dict(dict(Segment.recipe))
    del stage.search  # the segmenter's rate is not searched
    del stage.data  # it trains on what has a mask
    for name in ('distil', 'distil_weight', 'distil_temperature'):  # no stage is before it
        del stage[name]
    config.stage = ConfigDict({NAME: stage})
    return config


def read_config(config: ConfigDict) -> tuple[SegmentSettings, StageSettings]:
    """The settings of a config; UserError for a value that is out of its range."""
    entries = config.to_dict()
    stages = entries.pop('stage')
    settings = from_settings(SegmentSettings(), entries, '')
    if settings.folds == 1:
        raise UserError('--config.folds=1 must be 0 (none), or 2 or more.')
    default = StageSettings(task=Segment(), search=SearchSettings())
    stage = from_settings(default, stages[NAME], f'stage.{NAME}')
    check_stage(NAME, stage)
    return settings, stage


def make_stage(
    settings: SegmentSettings, stage: StageSettings, corpus: Corpus, devices: int
) -> Stage:
    """The stage that trains on `corpus`; UserError for settings that cannot work."""
    encoder, task = settings.network.build(), stage.task
    multiple = encoder.network.multiple
    if task.image_size % multiple:
        raise UserError(
            f'--config.stage.{NAME}.task.image_size={task.image_size} is not a multiple of '
            f'{multiple}, as a U-Net of depth {settings.network.depth} needs; use '
            f'{max(task.image_size // multiple, 1) * multiple}.'
        )
    images, batch = len(corpus), stage.batch_size
    if batch % devices or batch > images:
        raise UserError(
            f'--config.stage.{NAME}.batch_size={batch} must be a multiple of the {devices} devices '
            f'and at most the {images} training images with a lung mask.'
        )
    facts = Facts(
        images=images, batch_size=batch, steps_per_epoch=images // batch,
        total_steps=stage.epochs * (images // batch), devices=devices, feature_width=1, names=(),
    )  # fmt: skip
    task, _ = task.resolve(facts)
    stage = dataclasses.replace(stage, task=task)
    content = {
        'stage': NAME,
        'task': NAME,
        'settings': active(stage),
        'encoder': settings.network.identity(),
        'data': corpus.fingerprint,
        'seed': settings.seed,
    }
    return Stage(
        name=NAME, kind=NAME, settings=stage, facts=facts, encoder=encoder,
        train=Labelled(corpus), validation=None, left_out=LeftOut(0, 0, 0), seed=settings.seed,
        content=content, key=key_of(content), parent_key=None,
    )  # fmt: skip


def fresh(encoder: Encoder, size: int, seed: int) -> dict:
    """{'encoder': {'params', 'batch_stats'}} of an untrained network."""
    key = jax.random.key(stage_seed(seed, 'unet'))
    params, batch_stats = jax.jit(encoder.init, static_argnums=1)(key, size)
    return {'encoder': {'params': params, 'batch_stats': batch_stats}}


def make_predict(encoder: Encoder, part: dict, size: int, batch: int, mesh) -> Predict:
    """Compiled prediction at the network's `size`, enlarged to the images' and cut at 1/2.

    The probability is the mean of those of the image and of its mirror image.
    """

    def step(weights, images):
        pixels = to_unit_range(images)
        views = jax.vmap(lambda x: standardised(resize(x, size)))(pixels)
        found = [
            jax.nn.sigmoid(encoder(*weights, x, train=False).maps['logits'])
            for x in (views, views[:, :, ::-1])
        ]
        probability = (found[0] + found[1][:, :, ::-1]) / 2
        enlarged = jax.vmap(lambda x: resize(x, images.shape[1]))(probability)
        # Strictly more: what knows nothing says 1/2 and is no lung.
        return enlarged[..., 0] > 0.5

    compiled = parallel.sharded(step, mesh, (False, True), True)
    weights = parallel.replicate(mesh, (part['params'], part['batch_stats']))

    def predict(images: np.ndarray) -> np.ndarray:
        n = len(images)
        filled = images[np.arange(batch) % n]
        inputs = parallel.put_rows(mesh, {'image': filled})['image']
        return jax.device_get(compiled(weights, inputs))[:n]

    return predict


def predicted_masks(
    predict: Predict, corpus: Corpus, batch: int
) -> Iterator[tuple[dict, np.ndarray]]:
    """(record, mask [R, R] bool) of every image of a corpus in its order."""
    for rows in loader.eval_batches(corpus, batch):
        masks = predict(rows['image'])
        for i in np.flatnonzero(rows['valid']):
            yield {name: values[i] for name, values in rows.items()}, masks[i]


def load(folder: pathlib.Path, batch: int, mesh) -> tuple[Predict, dict]:
    """(prediction, origin) of a segmenter's bundle; UserError if it is none."""
    described = read_description(folder)
    if described['task'] != NAME:
        raise UserError(
            f'{folder} holds a {described["task"]}, not a segmenter. Train one with: python -m '
            'cxr_jax.segment train --config configs/segment.py.'
        )
    settings = {k: v for k, v in described['encoder'].items() if k != 'name'}
    encoder = Network(**settings).build()
    size = described['content']['settings']['task']['image_size']
    params, batch_stats = jax.eval_shape(lambda: encoder.init(jax.random.key(0), size))
    like = {'params': params, 'batch_stats': batch_stats}
    part = fit(read_parts(folder, ('encoder',))['encoder'], like, f'encoder of {folder}')
    told = ('stage', 'key', 'data', 'params_sha256')
    return make_predict(encoder, part, size, batch, mesh), {k: described[k] for k in told}


def load_lung_vae(path: pathlib.Path) -> tuple[Predict, dict]:
    """The published lungVAE on prepared images, one by one: (prediction, origin).

    It is meant for whole radiographs at native resolution; here it sees the prepared pixels, freed
    of the black bars that make them square.
    """
    variables = lung_vae.load(path)

    def predict(images: np.ndarray) -> np.ndarray:
        masks = np.zeros(images.shape[:3], bool)
        for image, mask in zip(images[..., 0], masks, strict=True):
            rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
            if len(rows):
                part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
                pixels = image[part] / np.float32(np.iinfo(image.dtype).max)
                mask[part] = lung_vae.segment(variables, pixels)
        return masks

    return predict, {'weights_sha256': hashlib.sha256(path.read_bytes()).hexdigest()}
