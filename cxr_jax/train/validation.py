"""How good a stage is on the validation split while it trains: what its search is judged by."""

from collections.abc import Callable

import jax

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.predict import predict_scores
from cxr_jax.runtime import parallel
from cxr_jax.tasks.base import Readout
from cxr_jax.train.feed import fields_of
from cxr_jax.train.program import Program, build_program
from cxr_jax.train.stage import Stage
from cxr_jax.train.step import make_observation
from data_pipelines.prepared import loader


class Programs:
    """Programs and validators of one stage's trials, one for all that compile to the same."""

    def __init__(self, parent: dict, mesh):
        self.mesh = mesh
        self._parent = parent
        self._made, self._validators = {}, {}

    def of(self, stage: Stage) -> Program:
        """What trains the stage; trials at different learning rates share it."""
        what = stage.program_key
        if what not in self._made:
            self._made[what] = build_program(stage, self._parent, self.mesh)
        return self._made[what]

    def validator(self, stage: Stage) -> Callable[[object], float]:
        """make_validator of the stage, shared likewise."""
        what = stage.program_key
        if what not in self._validators:
            self._validators[what] = make_validator(stage, self.mesh)
        return self._validators[what]


def make_validator(stage: Stage, mesh) -> Callable[[object], float]:
    """Compiled TrainState -> the task's `judged_by` on the validation images.

    A readout: the headline measure of its target, on whole images. A pretext task: mean of its loss
    or accuracy over views that are drawn anew but always alike, with batch statistics as in
    training; the last batch is filled up with the first images.
    """
    if isinstance(stage.task, Readout):
        return _readout_validator(stage, mesh)
    observed = make_observed(stage, mesh)
    return lambda state: observed(state)[stage.task.judged_by]


def make_observed(stage: Stage, mesh) -> Callable[[object], dict[str, float]]:
    """Compiled TrainState -> means of the task's loss and metrics over the validation images."""
    observe = make_observation(stage.task, stage.encoder, mesh, stage.seed)
    fields, data = fields_of(stage.encoder, stage.task), stage.validation

    def means(state) -> dict[str, float]:
        found = []
        shard = (jax.process_index(), jax.process_count())
        batches = loader.eval_batches(
            data.corpus, stage.facts.batch_size, shard, 'lung_mask' in fields, data.labels
        )
        for number, batch in enumerate(batches):
            inputs = parallel.put_rows(mesh, {name: batch[name] for name in fields})
            loss, metrics, _ = observe(state, inputs, number)
            found.append({name: float(v) for name, v in (metrics | {'loss': loss}).items()})
        return {name: sum(each[name] for each in found) / len(found) for name in found[0]}

    return means


def _readout_validator(stage: Stage, mesh) -> Callable[[object], float]:
    data, names, exclusive = stage.validation, stage.facts.names, stage.task.exclusive
    headline = measures.headline(exclusive)

    def validate(state) -> float:
        scores = predict_scores(
            stage.task, stage.encoder, state.parts, data.corpus, mesh, stage.facts.batch_size
        )
        table = {
            'scores': scores, 'labels': data.labels, 'patients': data.corpus.groups,
            'image_ids': data.corpus.column('image_id'),
        }  # fmt: skip
        return measures.value(headline, table, names, exclusive)

    return validate


def judged_by(stage: Stage) -> tuple[str, bool]:
    """(what a search of the stage goes by, whether more of it is better)."""
    if isinstance(stage.task, Readout):
        headline = measures.headline(stage.task.exclusive)
        return headline.name, headline.higher_is_better
    return stage.task.judged_by, stage.task.judged_by != 'loss'
