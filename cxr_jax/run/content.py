"""What a stage's key is made of: everything that determines its result, and nothing else."""

import dataclasses

from cxr_jax.models.encoder import Encoder, compute_dtype
from cxr_jax.run.settings import RunSettings, kind_of
from cxr_jax.run.weights import weights_hash
from cxr_jax.store.identity import active
from cxr_jax.tasks.distil import Distillation
from cxr_jax.train.stage import Labelled, Probed, StageSettings
from data_pipelines.prepared.corpus import Corpus, LeftOut
from data_pipelines.prepared.target import Target


@dataclasses.dataclass(frozen=True, eq=False)
class OfStage:
    """What is known of a stage before its settings are."""

    name: str
    train: Labelled
    validation: Labelled | None
    left_out: LeftOut
    encoder: Encoder
    parent: str | None
    before: str | None  # the task that left what it starts from
    probed: Probed | None


def content_of(
    run: RunSettings,
    target: Target | None,
    of: OfStage,
    settings: StageSettings,
    distillation: Distillation | None,
) -> dict:
    """The content of a stage as plain JSON; `settings` without `auto`."""
    readout = of.name == run.readout
    encoder = active(run.encoder) | {'dtype': compute_dtype(run.encoder.dtype)}
    weights = encoder.pop('weights', None)
    if of.parent is None and weights:  # what is there, wherever it lies
        taught = distillation.takes if distillation else ()
        takes = tuple(dict.fromkeys((*settings.task.takes, *taught)))
        encoder['weights'] = weights_hash(weights, takes)
    found = active(settings)
    content = {
        'stage': of.name,
        'task': kind_of(of.name),
        'settings': found,
        'encoder': encoder,
        'input': dataclasses.asdict(of.encoder.contract),
        'data': of.train.corpus.fingerprint,
        'seed': run.seed,
        'parent': of.parent,
    }

    def labelled(corpus: Corpus, labels: bool) -> list[str]:
        """Fingerprints of the images and, where they are read, of the labels."""
        return [corpus.fingerprint, *([target.fingerprint(corpus)] if labels else [])]

    if readout:
        content['target'] = target.fingerprint(of.train.corpus)
    if settings.search.protocol != 'off':
        del found['optimizer']['lr']  # found by the search
    if settings.judged:
        content['validation'] = labelled(of.validation.corpus, readout)
    if settings.early_stop.by in ('rank', 'sigreg'):
        # See train/probing.features_of.
        content['looked_at'] = of.probed.image_size if of.probed else settings.task.image_size
    if settings.early_stop.by == 'probe':
        corpora = of.probed.train.corpus, of.probed.validation.corpus
        content['probed'] = [labelled(corpus, True) for corpus in corpora]
        content['probed'].append(of.probed.image_size)
    return content
