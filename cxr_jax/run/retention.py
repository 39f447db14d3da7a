"""What each stage of a run forgets of the earlier ones, measured on the validation images.

Row i, column j: stage i's own task with what stage i left of its parts (head, projector, decoder)
on the encoder that stage j left; a classifier is measured by its accuracy, a decoder by its loss,
and where embeddings are compared, by how often an image finds its other view in a batch. Views are
drawn anew, and alike for all columns; batch statistics are as in training. Beside it a linear probe
that is fitted again to every encoder (Davari et al. 2022, section 3: what a head can no longer read
may still be there).
"""

import math
import time

import jax
import numpy as np
import optax

from cxr_jax.evaluation import measures, retention
from cxr_jax.evaluation.bootstrap import CONFIDENCE, PATIENTS, Draws
from cxr_jax.evaluation.cohort import labelled
from cxr_jax.evaluation.measures.base import resample
from cxr_jax.evaluation.probes import ridge_probe, ridge_scores
from cxr_jax.run.plan import Branch, Plan
from cxr_jax.run.stage import Outcome
from cxr_jax.runtime import hosts, parallel
from cxr_jax.tasks.base import Readout
from cxr_jax.train import state as states
from cxr_jax.train.features import corpus_features
from cxr_jax.train.feed import fields_of
from cxr_jax.train.probing import BATCH
from cxr_jax.train.stage import Probed, Stage, stage_seed
from cxr_jax.train.step import make_observation
from data_pipelines.prepared import loader

VIEWS = 3  # draws of views of every image
IMAGES = 1024  # of the validation split, at most
ACCURACY, LOSS, RETRIEVAL = 'accuracy', 'loss', 'retrieval'
DRAWS = 'draws'  # what an interval is over, where not over patients


def measure(
    plan: Plan, branch: Branch, initial: dict, outcomes: list[Outcome], mesh
) -> dict | None:
    """The retention of one branch as cxr_jax.report describes it; `initial`: the parts that its
    first stage started from. None where no stage follows another, or without validation images."""
    stages = branch.stages
    pretext = [n for n, each in enumerate(stages) if not isinstance(each.task, Readout)]
    rows = [n for n in pretext if n + 1 < len(stages)]
    images = stages[0].validation
    if not rows or images is None or not images.images:
        why = 'there are no validation images' if rows else 'no stage follows another'
        print(f'retention: not measured, as {why}')
        return None
    began = time.monotonic()
    encoders = [initial['encoder'], *(outcome.parts['encoder'] for outcome in outcomes)]
    encoders = [parallel.replicate(mesh, part) for part in encoders]
    run = plan.settings.run
    draws = Draws(run.eval.resamples, run.seed)
    found = {
        'fold': branch.fold,
        'images': images.images,
        'confidence': CONFIDENCE,
        'draws': VIEWS,
        'stages': [stage.name for stage in stages],
        'rows': [
            _Row(stages[n], mesh).measured(outcomes[n].parts, encoders[n + 1 :], draws)
            for n in rows
        ],
        'probe': _probe(stages[-1].probed, branch.encoder, encoders, draws, mesh),
    }
    print(f'retention: measured in {time.monotonic() - began:.0f} s', flush=True)
    return found


class _Row:
    """One stage's own task, on any encoder."""

    def __init__(self, stage: Stage, mesh):
        self._stage, self._mesh, self._task = stage, mesh, stage.task
        whole, batch = stage.validation.corpus, stage.facts.batch_size
        count = min(len(whole), IMAGES)
        # Whole batches: an image that fills one up would be found in the place of itself.
        count = count // batch * batch or count
        places = np.linspace(0, len(whole) - 1, count).astype(int)
        self._corpus = whole.take(places)
        self._observe = make_observation(stage.task, stage.encoder, mesh, stage.seed)
        self._fields = fields_of(stage.encoder, stage.task)

    def measured(self, own: dict, encoders: list[dict], draws: Draws) -> dict:
        """`own`: the parts that the stage left; `encoders`: its own and those of all later ones."""
        state = self._state(own)
        found = [self._values(_with_encoder(state, part)) for part in encoders]
        kind, values = found[0][0], [values for _, values in found]
        if kind == RETRIEVAL:
            cells = retention.over_patients(values, self._corpus.groups, draws)
        else:
            cells = retention.over_draws(values)
        told = self._told(kind) | {'stage': self._stage.name, 'images': len(self._corpus)}
        return told | {'cells': [{'figure': cell, 'change': change} for cell, change in cells]}

    def _state(self, own: dict):
        """The state at step 0 with all that the stage left."""
        seed = jax.random.key(stage_seed(self._stage.seed, self._stage.name))
        task, encoder = self._task, self._stage.encoder
        state = states.create(task, encoder, optax.identity(), own, seed, 0.0)
        state = state.replace(
            params=state.params | {part: tree['params'] for part, tree in own.items()},
            batch_stats=state.batch_stats | {p: tree['batch_stats'] for p, tree in own.items()},
        )
        # A teacher is left where its student is, as if it had had the time.
        teacher = state.extra.get('teacher')
        if teacher is not None:
            teacher = {part: state.params[part] for part in teacher}
            state = state.replace(extra=state.extra | {'teacher': teacher})
        return parallel.place(self._mesh, state, states.layout(task, state))

    def _values(self, state) -> tuple[str, np.ndarray]:
        """(kind of the measure, its values): of each image, or of each draw."""
        batch = self._stage.facts.batch_size
        shard, masks = (jax.process_index(), jax.process_count()), 'lung_mask' in self._fields
        batches = loader.eval_batches(self._corpus, batch, shard, masks)
        hits, numbers = [], []
        for place, records in enumerate(batches):
            inputs = parallel.put_rows(self._mesh, {name: records[name] for name in self._fields})
            seen = []
            for draw in range(VIEWS):
                number = np.uint32(draw + VIEWS * place)
                loss, metrics, embeddings = self._observe(state, inputs, number)
                seen.append((float(loss), jax.device_get(metrics), embeddings))
            kind = self._kind(seen[0][2])
            if kind == RETRIEVAL:
                valid = np.concatenate(hosts.gather(records['valid']))
                hits.append(self._retrieved([views for *_, views in seen], valid))
            else:
                numbers.append([
                    loss if kind == LOSS else float(metrics[kind]) for loss, metrics, _ in seen
                ])  # fmt: skip
        return kind, np.concatenate(hits) if hits else np.mean(numbers, axis=0)

    def _kind(self, embeddings: dict) -> str:
        # What a task has by image is known of its training images alone, not of these.
        if self._task.by_image:
            return RETRIEVAL
        if self._task.judged_by != LOSS:
            return self._task.judged_by
        return RETRIEVAL if len(embeddings) > 1 else LOSS

    def _retrieved(self, draws: list[dict], valid: np.ndarray) -> np.ndarray:
        """Share of hits of each image of a batch, over all draws."""
        views = [
            [
                np.concatenate(hosts.gather(parallel.own_rows_of(rows)))[valid]
                for _, rows in sorted(each.items())
            ]
            for each in draws
        ]
        if len(views[0]) == 1:  # one view a draw: its other one is that of the next draw
            views = [[one[0], other[0]] for one, other in zip(views, views[1:], strict=False)]
        return np.mean([retention.retrieval(each) for each in views], axis=0)

    def _told(self, kind: str) -> dict:
        """How the measure is shown, and what guessing reaches."""
        chance = self._task.chance_loss()
        if kind == RETRIEVAL:
            rows = min(self._stage.facts.batch_size, len(self._corpus))
            return {'measure': 'own view found', 'unit': 'percent', 'over': PATIENTS,
                    'higher_is_better': True, 'chance': 1 / rows}  # fmt: skip
        if kind == LOSS:
            return {'measure': LOSS, 'unit': 'decimal', 'over': DRAWS,
                    'higher_is_better': False, 'chance': chance}  # fmt: skip
        # Guessing among equally likely answers costs the logarithm of their number.
        guessed = math.exp(-chance) if kind == ACCURACY and chance is not None else None
        return {'measure': kind, 'unit': 'percent', 'over': DRAWS,
                'higher_is_better': True, 'chance': guessed}  # fmt: skip


def _with_encoder(state, part: dict):
    """The state on another encoder, of its teacher too."""
    changed = state.replace(
        params=state.params | {'encoder': part['params']},
        batch_stats=state.batch_stats | {'encoder': part['batch_stats']},
    )
    teacher = state.extra.get('teacher', {})
    if 'encoder' in teacher:
        extra = state.extra | {'teacher': teacher | {'encoder': part['params']}}
        changed = changed.replace(extra=extra)
    return changed


def _probe(probed: Probed | None, encoder, encoders: list[dict], draws: Draws, mesh) -> dict | None:
    """A ridge probe on the features of each encoder, before any stage and after each: the headline
    of the run's target. None without labels."""
    if not probed:
        return None
    headline, figures = measures.headline(probed.exclusive), []
    batch = -(-BATCH // mesh.size) * mesh.size
    for part in encoders:
        fitted, asked = (
            corpus_features(encoder, mesh, part, each.corpus, probed.image_size, batch)
            for each in (probed.train, probed.validation)
        )
        ridge = ridge_probe(fitted, probed.train.labels, len(probed.names))
        table = {
            'scores': ridge_scores(ridge, asked),
            'labels': probed.validation.labels,
            'patients': probed.validation.corpus.groups,
            'image_ids': probed.validation.corpus.column('image_id'),
        }
        table, cohort = labelled(table, probed.names, probed.exclusive)
        figures.append(resample([headline], [table], cohort, draws).figure(headline))
    told = headline.describe() | {'chance': headline.chance(cohort), 'figures': figures}
    return told | {'images': probed.validation.images, 'fitted': probed.train.images}
