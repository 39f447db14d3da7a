"""The classifier of a finished run, found again: for more than its own report shows."""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from cxr_jax.evaluation.predict import Predictions, predict
from cxr_jax.models.encoder import Backbone, build_backbone
from cxr_jax.run import curriculum
from cxr_jax.run.plan import make_plan
from cxr_jax.run.stage import Damaged, load_finished
from cxr_jax.runtime import parallel
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train.stage import Stage
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import PreparedData


@dataclasses.dataclass(frozen=True)
class Classifier:
    """`stage`: its plan, with the data it was trained on; `variables` as in stage.Outcome."""

    stage: Stage
    backbone: Backbone
    variables: dict
    mesh: object
    batch_size: int

    def predict(self, split: str, data: PreparedData | None = None) -> Predictions:
        """Predictions for a split of `data` (None: the data of its training)."""
        stage = self.stage
        return predict(
            stage.task, self.backbone, self.variables, data or stage.data, self.mesh, stage.region,
            split, self.batch_size,
        )  # fmt: skip


def find_classifier(config: ConfigDict, workdir: pathlib.Path) -> Classifier:
    """The classifier that curriculum.run trained; UserError if it is not in the store."""
    config = ConfigDict(config.to_dict())
    data, mesh = curriculum.open_data(config), parallel.data_mesh()
    stage = make_plan(config, data, mesh.size).stages[-1]
    contract = data.contract(stage.region)
    backbone = build_backbone(config.backbone, contract['mean'], contract['std'])
    parent = curriculum.initial_backbone(config, backbone, stage.task.image_size)
    directory = StageDirectory(curriculum.store_of(config, workdir), stage.name, stage.key)
    try:
        found = load_finished(stage, directory, backbone, parent, mesh)
    except Damaged as reason:
        again = f'start the run of {workdir} again'
        raise UserError(f'{directory.finished} is damaged ({reason}); {again}.') from None
    if not found:
        raise UserError(f'{workdir} is not finished: there is no {directory.finished}.')
    return Classifier(stage, backbone, found.variables, mesh, config.eval.batch_size)
