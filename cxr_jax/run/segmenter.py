"""A lung segmenter: its network, the stage that trains it, its files, its masks."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from cxr_jax.models import lung_vae
from cxr_jax.models.encoder import Backbone, compute_dtype
from cxr_jax.models.unet import UNet
from cxr_jax.runtime import parallel
from cxr_jax.store import trees
from cxr_jax.store.files import write_atomically, write_json
from cxr_jax.store.provenance import plain
from cxr_jax.store.settings import from_settings
from cxr_jax.store.stages import content_key
from cxr_jax.tasks.base import Facts
from cxr_jax.tasks.segment import Segment, standardised
from cxr_jax.train.stage import Stage, stage_seed
from cxr_jax.views.geometry import resize
from cxr_jax.views.region import to_unit_range
from data_pipelines.errors import UserError
from data_pipelines.prepared import loader
from data_pipelines.prepared.data import PreparedData

NAME = 'segment'
FORMAT = 1  # part of every stage's key: raised when the same settings come to mean something else
SETTINGS_FILE, WEIGHTS_FILE = 'segmenter.json', 'segmenter.safetensors'

# Images [b, R, R, 1] as stored -> masks [b, R, R] bool, of a batch of any size up to its own.
Predict = Callable[[np.ndarray], np.ndarray]


def build_network(settings: dict) -> Backbone:
    """U-Net of {'width', 'depth', 'dtype'}; its images are standardised one by one."""
    dtype = jnp.dtype(compute_dtype(settings['dtype']))
    unet = UNet(settings['width'], settings['depth'], dtype, axis_name=parallel.AXIS)
    return Backbone(unet, mean=0.0, std=1.0)


def fresh(network: Backbone, size: int, seed: int) -> dict:
    """{'params', 'batch_stats'} of an untrained network."""
    key = jax.random.key(stage_seed(seed, 'unet'))
    params, batch_stats = jax.jit(network.init, static_argnums=1)(key, size)
    return {'params': params, 'batch_stats': batch_stats}


def make_stage(config, data: PreparedData, devices: int) -> Stage:
    """The stage that trains on `data`; UserError for settings that cannot work."""
    settings = config.stage[NAME]
    task = from_settings(Segment(), settings.task, f'stage.{NAME}.task')
    multiple = build_network(config.network).network.multiple
    if task.image_size % multiple:
        raise UserError(
            f'--config.stage.{NAME}.task.image_size={task.image_size} is not a multiple of '
            f'{multiple}, as a U-Net of depth {config.network.depth} needs; use '
            f'{max(task.image_size // multiple, 1) * multiple}.'
        )
    images, batch = data.counts['train'], settings.batch_size
    if batch < 1 or batch % devices or batch > images:
        raise UserError(
            f'--config.stage.{NAME}.batch_size={batch} must be a multiple of the {devices} devices '
            f'and at most the {images} training images with a lung mask.'
        )
    facts = Facts(
        images=images, batch_size=batch, steps_per_epoch=images // batch, devices=devices,
        feature_width=1, classes=data.classes,
    )  # fmt: skip
    task, _ = task.resolve(facts)
    trained = settings.to_dict()
    del trained['checkpoint_epochs']
    content = {
        'format': FORMAT,
        'task': NAME,
        'settings': plain(trained | {'task': dataclasses.asdict(task)}),
        'network': config.network.to_dict() | {'dtype': compute_dtype(config.network.dtype)},
        'data': data.fingerprint,
        'seed': config.seed,
    }
    return Stage(
        name=NAME, task=task, config=settings, facts=facts, data=data, region='full',
        seed=config.seed, content=content, key=content_key(content), parent_key=None,
    )  # fmt: skip


def make_predict(network: Backbone, variables: dict, size: int, batch: int, mesh) -> Predict:
    """Compiled prediction at the network's `size`, enlarged to the images' and cut at 1/2.

    The probability is the mean of those of the image and of its mirror image.
    """

    def step(variables, images):
        pixels = to_unit_range(images)
        views = jax.vmap(lambda x: standardised(resize(x, size)))(pixels)
        found = [
            jax.nn.sigmoid(network(*variables, x, train=False)[0])
            for x in (views, views[:, :, ::-1])
        ]
        probability = (found[0] + found[1][:, :, ::-1]) / 2
        enlarged = jax.vmap(lambda x: resize(x, images.shape[1]))(probability)
        # Strictly more: what knows nothing says 1/2 and is no lung.
        return enlarged[..., 0] > 0.5

    compiled = parallel.sharded(step, mesh, (False, True), True)
    weights = parallel.replicate(mesh, (variables['params'], variables['batch_stats']))

    def predict(images: np.ndarray) -> np.ndarray:
        n = len(images)
        filled = images[np.arange(batch) % n]
        inputs = parallel.put_rows(mesh, {'image': filled})['image']
        return jax.device_get(compiled(weights, inputs))[:n]

    return predict


def predicted_masks(
    predict: Predict, data: PreparedData, split: str, batch: int
) -> Iterator[tuple[dict, np.ndarray]]:
    """(record, mask [R, R] bool) of every image of a split in stored order."""
    for rows in loader.eval_batches(data, split, batch):
        masks = predict(rows['image'])
        for i in np.flatnonzero(rows['valid']):
            yield {name: values[i] for name, values in rows.items()}, masks[i]


def save(folder: pathlib.Path, variables: dict, settings: dict) -> str:
    """Writes the weights and `settings` (network, image_size, data); returns the weights' hash."""
    flat = traverse_util.flatten_dict(variables, sep='/')
    arrays = {name: np.asarray(array) for name, array in sorted(flat.items())}
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(arrays, path))
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    write_json(folder / SETTINGS_FILE, settings | {'weights_sha256': digest})
    return digest


def load(folder: pathlib.Path, batch: int, mesh) -> tuple[Predict, dict]:
    """(prediction, settings) of a segmenter that `save` wrote; UserError if it is none."""
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text())
        arrays = load_file(folder / WEIGHTS_FILE)
    except OSError as error:
        raise UserError(
            f'--segmenter={folder} holds no trained segmenter ({error.strerror or error}). Train '
            'one with: python -m cxr_jax.segment train --config configs/segment.py (without '
            '--config.folds, which only measures).'
        ) from None
    network, size = build_network(settings['network']), settings['image_size']
    params, batch_stats = jax.eval_shape(lambda: network.init(jax.random.key(0), size))
    found = traverse_util.unflatten_dict(arrays, sep='/')
    expected = {'params': params, 'batch_stats': batch_stats}
    variables = trees.hand_over_backbone(found, expected, str(folder / WEIGHTS_FILE))
    return make_predict(network, variables, size, batch, mesh), settings


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
