"""The contract of a task: what one new file has to define."""

import dataclasses
from typing import ClassVar

from cxr_jax.store.settings import Auto
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `auto` values and checks may depend on."""

    images: int  # of the split that the task trains on
    batch_size: int  # global
    steps_per_epoch: int
    devices: int
    feature_width: int
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """Base of all tasks. Fields are the paper's hyper-parameters; methods are pure.

    `state` is the TrainState; its `extra` is whatever changes without a gradient (teacher, queues).
    Inside `loss` all arrays are this device's rows; means over rows are averaged over devices by
    the train step.
    """

    image_size: int = 224  # pixels of the network's input

    needs_masks: ClassVar[bool] = False  # whether an example has a lung_mask as well
    # What a search of the learning rate goes by, on the validation split.
    judged_by: ClassVar[str] = 'loss'

    @property
    def higher_is_better(self) -> bool:
        """Whether more of `judged_by` is better."""
        return self.judged_by != 'loss'

    @property
    def smallest_input(self) -> int:
        """Pixels on a side of the smallest image that the backbone is given."""
        return self.image_size

    def resolve(self, facts: Facts) -> tuple['Task', dict[str, str]]:
        """Task without `auto`, and per resolved field the reason. UserError if it cannot run."""
        return self, {}

    def views(self, key, example: dict) -> dict:
        """Views and pseudo-labels of one example (image [R, R, 1] in [0, 1], label); vmapped."""
        raise NotImplementedError

    def init(self, key, backbone, params: dict, batch_stats: dict) -> tuple[dict, dict, dict]:
        """-> (head params, head batch_stats, extra) given the backbone's params and batch_stats."""
        raise NotImplementedError

    def loss(self, backbone, params: dict, state, views: dict, key):
        """-> (mean loss over this device's rows, (batch_stats, extra, metrics))."""
        raise NotImplementedError

    def after_update(self, params: dict, extra: dict, step) -> tuple[dict, dict]:
        """Changes that follow the optimiser's; identity by default."""
        return params, extra

    def frozen(self, facts: Facts) -> dict[str, int]:
        """Top-level head parameters that are not updated at all before the given step."""
        return {}

    def chance_loss(self) -> float:
        """Loss of a model whose output is uniform."""
        raise NotImplementedError


def queue_rows(name: str, asked: Auto, limit: int, facts: Facts) -> tuple[int, str]:
    """Rows of a queue: as asked, or the largest multiple of the batch within data and `limit`."""
    batch = facts.batch_size
    if asked == 'auto':
        rows = min(limit, facts.images) // batch * batch
        return rows, f'largest multiple of batch {batch} within {facts.images} images and {limit}'
    if asked % batch:
        raise UserError(
            f'{name}={asked} is not a multiple of the batch size {batch}; use '
            f'{max(asked // batch, 1) * batch}, or auto.'
        )
    if asked > facts.images:
        raise UserError(
            f'{name}={asked} is larger than the {facts.images} training images, so it would hold '
            f'several views of every image, as negatives of each other; use at most '
            f'{facts.images // batch * batch}, or auto.'
        )
    return asked, ''
