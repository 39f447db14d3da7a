"""What pretext stages make of images, for the report."""

import jax
import numpy as np

from cxr_jax.run.plan import Plan
from cxr_jax.run.stage import Outcome
from cxr_jax.tasks.base import Task
from cxr_jax.train.stage import Stage, stage_seed
from data_pipelines.prepared import loader

IMAGES = 6


def pretext_pictures(plan: Plan, outcomes: list[list[Outcome]]) -> dict[str, dict]:
    """{stage: {title of a row: images [n, S, S, C]}} of the first fold's stages that draw some."""
    stages = zip(plan.branches[0].stages, outcomes[0], strict=True)
    return {
        stage.name: pictures_of(stage, outcome)
        for stage, outcome in stages
        if type(stage.task).picture is not Task.picture
    }


def pictures_of(stage: Stage, outcome: Outcome) -> dict[str, np.ndarray]:
    """{title of a row: images [n, S, S, C]} of IMAGES validation images, from the first to the
    last; of training images where none are kept for validation."""
    task, encoder = stage.task, stage.encoder
    data = stage.validation if stage.validation and stage.validation.images else stage.train
    chosen = np.unique(np.linspace(0, data.images - 1, IMAGES).round().astype(int))
    records = loader.read_records(data.corpus, chosen)
    example = {'image': encoder.contract.images(records)}
    example |= {name: records[name] for name in task.needs if name in records}
    kinds = ('params', 'batch_stats')
    model = [{name: part[kind] for name, part in outcome.parts.items()} for kind in kinds]
    # As in training the draw is the stage's seed and the image's number, so the picture of a
    # stage from the store is that of the run that trained it.
    key = jax.random.key(stage_seed(stage.seed, stage.name))

    @jax.jit
    def draw(model, example):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, chosen)
        return task.picture(encoder, *model, jax.vmap(task.views)(keys, example))

    return {title: np.asarray(rows) for title, rows in draw(model, example).items()}
