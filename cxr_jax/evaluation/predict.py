"""The classifier on every image of a split, once: probabilities, activation maps, AIL."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.evaluation.maps.boxes import attention_inside_boxes
from cxr_jax.evaluation.maps.cam import class_activation_map, enlarge
from cxr_jax.evaluation.maps.lungs import attention_inside_lungs, lung_area_fraction
from cxr_jax.runtime import hosts, parallel
from cxr_jax.views.geometry import resize, resize_mask
from cxr_jax.views.region import prepare_images
from data_pipelines.prepared import loader


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One row per image of the split, in stored order; S = the network's input size."""

    probabilities: np.ndarray  # [N, K] float32
    labels: np.ndarray  # [N] int
    patients: np.ndarray  # [N] str
    image_ids: np.ndarray  # [N] str
    ail: np.ndarray  # [N], NaN without a lung mask or without positive activation
    lung_area: np.ndarray  # [N], NaN without a lung mask
    box_attention: np.ndarray  # [N], NaN without lesion boxes or without positive activation
    box_area: np.ndarray  # [N], NaN without lesion boxes
    cams: np.ndarray  # [N, h, w] of the predicted class, as small as the feature map


def make_eval_step(task, backbone, mesh, region: str, gray: float):
    """Compiled (variables, batch) -> dict of rows; the whole image, resized, without augmentation.

    AIL is taken on the map of the predicted class enlarged to the input size, with the lung mask
    brought to the same grid by nearest neighbour.
    """

    def step(variables, batch):
        params, stats = variables['params'], variables['batch_stats']['backbone']
        images = prepare_images(batch, region, gray)
        images = jax.vmap(lambda x: resize(x, task.image_size))(images)
        feature_map, _ = backbone(params['backbone'], stats, images, train=False)
        logits = task.logits(params, feature_map)
        predicted = logits.argmax(-1)
        cams = class_activation_map(feature_map, task.kernel(params), predicted)
        masks = jax.vmap(lambda x: resize_mask(x, task.image_size))(batch['lung_mask'])[..., 0]
        return {
            'probabilities': jax.nn.softmax(logits),
            'cams': cams,
            'ail': attention_inside_lungs(enlarge(cams, task.image_size), masks),
            'lung_area': lung_area_fraction(masks),
        }

    return parallel.sharded(step, mesh, (False, True), True)


def predict(
    task, backbone, variables: dict, data, mesh, region: str, split: str, batch_size: int
) -> Predictions:
    """Predictions for every image of `split`; `variables` as handed over by the last stage."""
    step = make_eval_step(task, backbone, mesh, region, data.statistics['full']['mean'])
    variables = parallel.replicate(mesh, variables)
    shard = (jax.process_index(), jax.process_count())
    rows = []
    for batch in loader.eval_batches(data, split, batch_size, shard):
        inputs = {k: batch[k] for k in ('image', 'lung_mask')}
        outputs = parallel.own_rows_of(step(variables, parallel.put_rows(mesh, inputs)))
        large = np.asarray(enlarge(jnp.asarray(outputs['cams']), task.image_size))
        inside, area = attention_inside_boxes(large, batch['boxes'], data.size)
        outputs |= {'box_attention': inside, 'box_area': area}
        outputs |= {k: batch[k] for k in ('label', 'patient', 'image_id', 'has_lung_mask')}
        rows.append({k: np.asarray(v)[batch['valid']] for k, v in outputs.items()})
    # Each batch in the order of the processes, which hold consecutive parts of it.
    rows = [part for batch in zip(*hosts.gather(rows), strict=True) for part in batch]
    found = {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
    no_mask = ~found['has_lung_mask'].astype(bool)
    return Predictions(
        probabilities=found['probabilities'],
        labels=found['label'],
        patients=found['patient'],
        image_ids=found['image_id'],
        ail=np.where(no_mask, np.nan, found['ail']),
        lung_area=np.where(no_mask, np.nan, found['lung_area']),
        box_attention=found['box_attention'],
        box_area=found['box_area'],
        cams=found['cams'],
    )


def gallery_arrays(
    predictions: Predictions, chosen: np.ndarray, task, data, region: str, split: str
) -> dict[str, np.ndarray | None]:
    """What the gallery shows of the images numbered `chosen`: arrays [n, S, S] and their rows."""
    size = task.image_size
    images, masks = [], []
    records = loader.read_records(data, split, chosen)
    for image, mask in zip(records['image'], records['lung_mask'], strict=True):
        pixels = prepare_images(
            {'image': image, 'lung_mask': mask}, region, data.statistics['full']['mean']
        )
        images.append(np.asarray(resize(pixels, size))[..., 0])
        masks.append(np.asarray(resize_mask(jnp.asarray(mask), size))[..., 0])
    return {
        'images': np.stack(images),
        'cams': np.asarray(enlarge(jnp.asarray(predictions.cams[chosen]), size)),
        'masks': np.stack(masks) if records['has_lung_mask'].any() else None,
        'probabilities': predictions.probabilities[chosen],
        'labels': predictions.labels[chosen],
        'ail': predictions.ail[chosen],
    }
