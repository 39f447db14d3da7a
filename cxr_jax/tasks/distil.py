"""Distillation: a second term in any task's loss, which keeps what the stage before has learnt.

The teacher is what that stage left, frozen and in evaluation mode. It sees the very images that the
task shows its student, and the student's features are those that the task computes anyway: a task
needs to know nothing of it. Means are over all images that the student sees.

    features  1 - cos(f, t) of the pooled features f of the student and t of the teacher: a hint
              (Romero et al. 2015, FitNets) in its cosine form, without a regressor
    cassle    2 - 2 cos(g(f), t) with a predictor g that is trained along (Fini et al. 2022, CaSSLe;
              the official cassle/distillers/predictive.py). It works on the encoder's features, not
              on projections: those of different tasks have nothing in common
    lwf       T² KL(softmax(h(t) / T) || softmax(h'(f) / T)): h, the teacher's linear head; h', its
              copy that is trained along (Li and Hoiem 2016, learning without forgetting, with the
              temperature of Hinton et al. 2015). For findings, the mean of each one's own KL
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from cxr_jax.models.heads import MLP, LinearHead, unit_rows
from cxr_jax.runtime import parallel
from cxr_jax.tasks.base import Task

NONE, FEATURES, CASSLE, LWF = KINDS = ('none', 'features', 'cassle', 'lwf')
PART = 'distiller'  # of the student: predictor or head; no stage leaves it
EXTRA = 'distil'  # entry of a state's extra: the teacher
HIDDEN = 2048  # units of the predictor (Fini et al. 2022)


def feature_loss(student, teacher):
    """1 - cosine of features [B, D], mean over the rows."""
    return 1 - (unit_rows(student) * unit_rows(teacher)).sum(-1).mean()


def predictive_loss(predicted, teacher):
    """2 - 2 cosine of predictions and features [B, D], mean over the rows: BYOL's distance."""
    return 2 * feature_loss(predicted, teacher)


def soft_target_loss(student, teacher, temperature: float, exclusive: bool = True):
    """Temperature² times the KL divergence of softened answers from the teacher's; logits [B, K].

    Not exclusive: each column is an answer of its own, yes or no; mean over the columns.
    """
    if not exclusive:
        student, teacher = (jnp.stack([x, jnp.zeros_like(x)], axis=-1) for x in (student, teacher))
    log_q = jax.nn.log_softmax(student / temperature, axis=-1)
    log_p = jax.nn.log_softmax(teacher / temperature, axis=-1)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What is kept of the stage before, and how much it counts."""

    kind: str  # of KINDS, not none
    weight: float = 1.0  # of the term beside the task's own loss
    temperature: float = 2.0  # lwf
    exclusive: bool = True  # lwf: the logits of the head are classes, not findings

    @property
    def takes(self) -> tuple[str, ...]:
        """Parts of the stage before that make the teacher."""
        return ('encoder', 'head') if self.kind == LWF else ('encoder',)

    def init(self, key, encoder, parts: dict) -> tuple[dict, dict, dict]:
        """-> (params, batch_stats) of PART, {} without one, and the teacher."""
        teacher = {part: parts[part] for part in self.takes}
        if self.kind == LWF:
            return {PART: parts['head']['params']}, {PART: {}}, teacher
        if self.kind == FEATURES:
            return {}, {}, teacher
        width = encoder.feature_width
        variables = _predictor(width).init(key, jnp.zeros((2, width)))
        return {PART: variables['params']}, {PART: variables['batch_stats']}, teacher

    def term(self, params: dict, batch_stats: dict, features, target, teacher: dict) -> tuple:
        """-> (value, new batch_stats of PART): features and the teacher's, [B, D]."""
        if self.kind == FEATURES:
            return feature_loss(features, target), batch_stats
        if self.kind == CASSLE:
            variables = {'params': params[PART], 'batch_stats': batch_stats[PART]}
            predictor = _predictor(features.shape[-1])
            predicted, new = predictor.apply(variables, features, mutable=['batch_stats'])
            return predictive_loss(predicted, target), {PART: new['batch_stats']}
        old, own = (
            LinearHead(head['linear']['bias'].shape[0]).apply({'params': head}, x)
            for head, x in ((teacher['head']['params'], target), (params[PART], features))
        )
        value = soft_target_loss(own, stop_gradient(old), self.temperature, self.exclusive)
        return value, batch_stats


def _predictor(width: int) -> MLP:
    return MLP((HIDDEN, width), bias=True, axis_name=parallel.AXIS)


class _Recording:
    """An encoder that remembers what it made of images with the student's own parameters."""

    def __init__(self, encoder, student: dict):
        self._encoder, self._student = encoder, student
        self.seen = []  # (images, Features), in the order of the calls

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def __call__(self, params, batch_stats, images, **options):
        features = self._encoder(params, batch_stats, images, **options)
        # The very object: a momentum teacher has other parameters of the same names.
        if params is self._student:
            self.seen.append((images, features))
        return features


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A task with a second term in its loss; all else is the task's. It is trained in its place."""

    task: Task
    distillation: Distillation

    def __getattr__(self, name):
        return getattr(self.task, name)

    def init(self, key, encoder, parts):
        # The task draws what it draws without a teacher.
        params, batch_stats, extra = self.task.init(key, encoder, parts)
        own_key = jax.random.fold_in(key, 1)
        own, own_stats, teacher = self.distillation.init(own_key, encoder, parts)
        return params | own, batch_stats | own_stats, extra | {EXTRA: teacher}

    def loss(self, encoder, params, state, views, key):
        teacher = state.extra[EXTRA]
        recording = _Recording(encoder, params['encoder'])
        loss, aux = self.task.loss(recording, _without(params), own_state(state), views, key)
        if not recording.seen:
            raise ValueError(f'{type(self.task).__name__} has not called the encoder it trains')
        stats, total, images = {k: v for k, v in state.batch_stats.items() if k == PART}, 0.0, 0
        for seen, features in recording.seen:
            weights = teacher['encoder']['params'], teacher['encoder']['batch_stats']
            target = stop_gradient(encoder(*weights, seen, train=False).pooled)
            value, stats = self.distillation.term(params, stats, features.pooled, target, teacher)
            total, images = total + len(seen) * value, images + len(seen)
        term = total / images
        return loss + self.distillation.weight * term, aux._replace(
            batch_stats=aux.batch_stats | stats,
            extra=aux.extra | {EXTRA: teacher},
            metrics=aux.metrics | {'task_loss': loss, 'distil_loss': term},
        )

    def after_update(self, params, extra, step):
        own, rest = self.task.after_update(_without(params), _without(extra), step)
        return _with(own, params), _with(rest, extra)

    def between(self, state, epoch, *known):
        changed = self.task.between(own_state(state), epoch, *known)
        fields = ('params', 'batch_stats', 'extra')
        return changed.replace(
            **{name: _with(getattr(changed, name), getattr(state, name)) for name in fields}
        )


def own_state(state):
    """A TrainState without what distillation keeps in it: all that the task itself knows of."""
    fields = ('params', 'batch_stats', 'extra')
    return state.replace(**{name: _without(getattr(state, name)) for name in fields})


def _without(entries: dict) -> dict:
    return {name: tree for name, tree in entries.items() if name not in (PART, EXTRA)}


def _with(entries: dict, before: dict) -> dict:
    return entries | {name: before[name] for name in (PART, EXTRA) if name in before}
