"""How good a stage is on the validation split while it trains: what its search is judged by."""

from collections.abc import Callable

import jax
import numpy as np

from cxr_jax.evaluation.metrics import class_accuracies, confusion_matrix
from cxr_jax.evaluation.predict import make_eval_step
from cxr_jax.runtime import hosts, parallel
from cxr_jax.train.loop import Program, build_program
from cxr_jax.train.stage import Stage
from cxr_jax.train.step import make_views
from cxr_jax.views.region import needs_masks
from data_pipelines.prepared import loader

SPLIT = 'validation'


class Programs:
    """Programs and validators of one stage's trials: one per batch size and length."""

    def __init__(self, backbone, parent: dict, mesh):
        self.mesh = mesh
        self._built_from = backbone, parent, mesh
        self._made, self._validators = {}, {}

    def of(self, stage: Stage) -> Program:
        """What trains the stage; trials at different learning rates share it."""
        what = stage.facts.batch_size, stage.total_steps
        if what not in self._made:
            self._made[what] = build_program(stage, *self._built_from)
        return self._made[what]

    def validator(self, stage: Stage) -> Callable[[object], float]:
        """make_validator of the stage, shared likewise."""
        what = stage.facts.batch_size, stage.total_steps
        if what not in self._validators:
            self._validators[what] = make_validator(stage, self.of(stage))
        return self._validators[what]


def make_validator(stage: Stage, program: Program) -> Callable[[object], float]:
    """Compiled TrainState -> the task's `judged_by` on the validation split.

    The classifier: balanced accuracy of whole images. A pretext task: mean of its loss or accuracy
    over views that are drawn anew but always alike, with batch statistics as in training; the last
    batch is filled up with the first images.
    """
    if stage.task.judged_by == 'balanced_accuracy':
        return _classifier_validator(stage, program)
    step = _make_task_step(stage, program)
    masks = needs_masks(stage.region) or stage.task.needs_masks
    fields = ('image', 'label', 'lung_mask') if masks else ('image', 'label')

    def validate(state) -> float:
        values = [
            float(step(state, {name: batch[name] for name in fields}, np.uint32(i)))
            for i, batch in enumerate(_batches(stage, masks))
        ]
        return sum(values) / len(values)

    return validate


def _batches(stage: Stage, masks: bool):
    """This process's rows of the validation split's batches."""
    shard = (jax.process_index(), jax.process_count())
    return loader.eval_batches(stage.data, SPLIT, stage.facts.batch_size, shard, masks)


def _make_task_step(stage: Stage, program: Program):
    task, gray = stage.task, stage.data.statistics['full']['mean']

    def step(state, batch, number):
        key = jax.random.fold_in(jax.random.key(stage.seed), number)
        view_key, loss_key = jax.random.split(key)
        views = make_views(task, view_key, batch, stage.region, gray)
        loss, (_, _, metrics) = task.loss(program.backbone, state.params, state, views, loss_key)
        return parallel.mean(loss if task.judged_by == 'loss' else metrics[task.judged_by])

    compiled = parallel.sharded(step, program.mesh, (False, True, False), False)

    def run(state, batch, number):
        return compiled(state, parallel.put_rows(program.mesh, batch), number)

    return run


def _classifier_validator(stage: Stage, program: Program):
    gray = stage.data.statistics['full']['mean']
    step = make_eval_step(stage.task, program.backbone, program.mesh, stage.region, gray)
    classes = len(stage.facts.classes)

    def validate(state) -> float:
        variables = {'params': state.params, 'batch_stats': state.batch_stats}
        confusion = np.zeros((classes, classes))
        for batch in _batches(stage, masks=True):
            inputs = {name: batch[name] for name in ('image', 'lung_mask')}
            outputs = step(variables, parallel.put_rows(program.mesh, inputs))
            predicted = parallel.own_rows_of(outputs['probabilities']).argmax(1)
            used = batch['valid'] & (batch['label'] >= 0)
            confusion += confusion_matrix(batch['label'][used], predicted[used], classes)
        return float(np.nanmean(class_accuracies(sum(hosts.gather(confusion)))))

    return validate
