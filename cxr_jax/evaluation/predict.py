"""A readout on every image of a corpus, once: scores, activation maps, attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.evaluation.maps.boxes import attention_inside_boxes
from cxr_jax.evaluation.maps.cam import class_activation_map, enlarge
from cxr_jax.evaluation.maps.lungs import attention_inside_lungs, lung_area_fraction
from cxr_jax.runtime import hosts, parallel
from cxr_jax.views.geometry import resize, resize_mask
from data_pipelines.prepared import loader
from data_pipelines.prepared.corpus import Corpus

# The fields of Predictions that make a table (see evaluation/cohort.py).
TABLE = (
    'scores', 'labels', 'patients', 'image_ids', 'ail', 'lung_area', 'box_attention', 'box_area',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One row per image of the corpus, in its order; S = the network's input size."""

    scores: np.ndarray  # [N, K] float32: probabilities
    labels: np.ndarray  # values of the target: int [N], or [N, K] for findings
    patients: np.ndarray  # [N] str: the patient, or the study where no patient is known
    image_ids: np.ndarray  # [N] str
    # Of the maps; None of a readout without evidence for them.
    ail: np.ndarray | None = None  # [N], NaN without a lung mask or without positive activation
    lung_area: np.ndarray | None = None  # [N], NaN without a lung mask
    # [N], NaN without lesion boxes or without positive activation.
    box_attention: np.ndarray | None = None
    box_area: np.ndarray | None = None  # [N], NaN without lesion boxes
    # [N, h, w] of the name with the highest score, as small as the feature map.
    cams: np.ndarray | None = None

    def table(self) -> dict[str, np.ndarray]:
        """What measures are computed from: those of TABLE that there are."""
        columns = {name: getattr(self, name) for name in TABLE}
        return {name: column for name, column in columns.items() if column is not None}


@functools.lru_cache(maxsize=8)
def _compiled(readout, encoder, mesh, maps: bool):
    """(params, batch_stats, batch) -> dict of rows; the whole image, resized, not augmented.

    `maps`: also the map of the name with the highest score, and AIL on that map enlarged to the
    input size, with the lung mask brought to the same grid by nearest neighbour.
    """
    size = readout.image_size

    def step(params, stats, batch):
        images = jax.vmap(lambda x: resize(x, size))(encoder.contract.images(batch))
        features = encoder(params['encoder'], stats['encoder'], images, train=False)
        scores = readout.scores(readout.logits(params, features))
        evidence = readout.evidence(params) if maps else None
        if evidence is None:
            return {'scores': scores}
        cams = class_activation_map(features.last, evidence, scores.argmax(-1))
        masks = jax.vmap(lambda x: resize_mask(x, size))(batch['lung_mask'])[..., 0]
        return {
            'scores': scores,
            'cams': cams,
            'ail': attention_inside_lungs(enlarge(cams, size), masks),
            'lung_area': lung_area_fraction(masks),
        }

    return parallel.sharded(step, mesh, (False, False, True), True)


def _outputs(readout, encoder, parts: dict, corpus: Corpus, mesh, batch_size: int, maps: bool):
    """(this process's rows of the outputs, the batch) of every batch of the corpus."""
    step = _compiled(readout, encoder, mesh, maps)
    kinds = ('params', 'batch_stats')
    variables = [{name: part[kind] for name, part in parts.items()} for kind in kinds]
    params, stats = parallel.replicate(mesh, variables)
    shard = (jax.process_index(), jax.process_count())
    masks = maps or encoder.contract.needs_masks
    fields = ('image', 'lung_mask') if masks else ('image',)
    for batch in loader.eval_batches(corpus, batch_size, shard, masks):
        inputs = parallel.put_rows(mesh, {name: batch[name] for name in fields})
        yield parallel.own_rows_of(step(params, stats, inputs)), batch


def _joined(rows: list[dict]) -> dict[str, np.ndarray]:
    """The rows of all processes, each batch in their order: they hold consecutive parts of it."""
    rows = [part for batch in zip(*hosts.gather(rows), strict=True) for part in batch]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def predict_scores(readout, encoder, parts: dict, corpus: Corpus, mesh, batch_size: int):
    """Scores [N, K] alone, without maps."""
    rows = [
        {'scores': outputs['scores'][batch['valid']]}
        for outputs, batch in _outputs(readout, encoder, parts, corpus, mesh, batch_size, False)
    ]
    return _joined(rows)['scores']


def predict(
    readout, encoder, parts: dict, corpus: Corpus, labels: np.ndarray, mesh, batch_size: int
) -> Predictions:
    """Predictions for every image of `corpus`; `parts` {part: {'params', 'batch_stats'}}."""
    rows = []
    for outputs, batch in _outputs(readout, encoder, parts, corpus, mesh, batch_size, True):
        if 'cams' in outputs:
            large = np.asarray(enlarge(jnp.asarray(outputs['cams']), readout.image_size))
            inside, area = attention_inside_boxes(large, batch['boxes'], corpus.size)
            outputs |= {'box_attention': inside, 'box_area': area}
            without = ~np.asarray(batch['has_lung_mask'], bool)
            for name in ('ail', 'lung_area'):
                outputs[name] = np.where(without, np.nan, outputs[name])
        rows.append({name: np.asarray(v)[batch['valid']] for name, v in outputs.items()})
    return Predictions(
        labels=labels,
        patients=corpus.groups,
        image_ids=corpus.column('image_id'),
        **_joined(rows),
    )


def gallery_arrays(
    predictions: Predictions, chosen: np.ndarray, image_size: int, contract, corpus: Corpus
) -> dict[str, np.ndarray | None]:
    """What the gallery shows of the images numbered `chosen`: images [n, S, S, C], maps and masks
    [n, S, S] and the rows of the table."""
    images, masks = [], []
    records = loader.read_records(corpus, chosen)
    for image, mask in zip(records['image'], records['lung_mask'], strict=True):
        pixels = contract.images({'image': image, 'lung_mask': mask})
        images.append(np.asarray(resize(pixels, image_size)))
        masks.append(np.asarray(resize_mask(jnp.asarray(mask), image_size))[..., 0])
    return {
        'images': np.stack(images),
        'cams': np.asarray(enlarge(jnp.asarray(predictions.cams[chosen]), image_size)),
        'masks': np.stack(masks) if records['has_lung_mask'].any() else None,
        'scores': predictions.scores[chosen],
        'labels': predictions.labels[chosen],
        'ail': predictions.ail[chosen],
    }
