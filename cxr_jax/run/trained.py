"""A finished readout out of its bundle: it predicts any images that its contract allows."""

import dataclasses
import pathlib

import jax
import optax

from cxr_jax.evaluation.predict import Predictions, predict
from cxr_jax.models.encoder import Contract, Encoder, EncoderSettings, build_encoder
from cxr_jax.store.bundle import fit, read_description, read_parts
from cxr_jax.store.identity import restored
from cxr_jax.tasks import READOUTS
from cxr_jax.tasks.base import Readout
from cxr_jax.train import state as states
from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus
from data_pipelines.prepared.target import Target


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedReadout:
    """A readout, the encoder below it and its target; nothing of the config that trained it."""

    folder: pathlib.Path
    description: dict  # bundle.json
    readout: Readout
    encoder: Encoder
    target: Target
    parts: dict  # {part: {'params', 'batch_stats'}}

    def predict(self, corpus: Corpus, mesh, batch_size: int) -> Predictions:
        """Predictions for every image of `corpus`, whose sets may lack some names of the target.

        `batch_size`: a multiple of the devices. UserError for images that the encoder cannot see.
        """
        if not len(corpus):
            raise UserError(f'There is no image of {corpus.title} to predict; name another split.')
        region = self.encoder.contract.region
        if self.encoder.contract.needs_masks and not corpus.has_lung_masks:
            raise UserError(
                f'The readout in {self.folder} sees the region {region}, and {corpus.title} has '
                'images without a lung mask. Let a segmenter write them (python -m cxr_jax.segment '
                'apply), or prepare the data with masks.'
            )
        labels = self.target.values(corpus)
        return predict(self.readout, self.encoder, self.parts, corpus, labels, mesh, batch_size)


def load_readout(folder: pathlib.Path) -> TrainedReadout:
    """The readout of a finished stage's folder or of a copy of its bundle, checked.

    UserError for a bundle of another task, or one that this version cannot use; Damaged.
    """
    told = read_description(folder)
    if told['task'] not in READOUTS:
        raise UserError(
            f'{folder} holds a stage of {told["task"]}, which predicts nothing. Name the folder of '
            f'a finished {" or ".join(READOUTS)}, or the workdir of a run that ended in one.'
        )
    content, names = told['content'], tuple(told['target'])
    # `weights` only tells what the training started from.
    network = {name: value for name, value in content['encoder'].items() if name != 'weights'}
    encoder = build_encoder(
        restored(EncoderSettings(), network, folder), Contract(**told['contract'])
    )
    # Bundles of before `derived` was recorded are of readouts that derive their outputs alone.
    filled_in = told.get('derived', {}) | {'outputs': len(names)}
    readout = READOUTS[told['task']]()
    readout = restored(readout, content['settings']['task'] | filled_in, folder)
    uncertain = told['run'].get('data', {}).get('uncertain', 'ignore')

    def shapes() -> dict:
        params, batch_stats = encoder.init(jax.random.key(0), readout.image_size)
        fresh = {'encoder': {'params': params, 'batch_stats': batch_stats}}
        key = jax.random.key(0)
        return states.create(readout, encoder, optax.identity(), fresh, key, 0.0).parts

    parts = fit(read_parts(folder), jax.eval_shape(shapes), f'readout in {folder}')
    target = Target(names, readout.exclusive, uncertain)
    return TrainedReadout(folder, told, readout, encoder, target, parts)
