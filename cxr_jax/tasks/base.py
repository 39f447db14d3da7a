"""The contract of a task: what one new file has to define."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from cxr_jax.models.heads import LinearHead
from cxr_jax.store.settings import Auto, derived, setting
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `auto` values and checks may depend on."""

    images: int  # that the task trains on
    batch_size: int  # global
    steps_per_epoch: int
    total_steps: int  # of the stage
    devices: int
    feature_width: int  # of the encoder
    names: tuple[str, ...]  # of the target's classes or findings
    exclusive: bool = True  # whether exactly one of the names is true for an image
    # Of each name, the images known to be without it and those with it. What a program is made of
    # is what a task derives from them.
    counts: tuple[tuple[int, int], ...] = dataclasses.field(default=(), compare=False)


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    batch_stats: dict  # {part: tree}, new
    extra: dict  # new
    metrics: dict  # scalars, each a mean over this device's rows
    # What monitors look at, of this device's rows: what becomes of each view, view -> [b, D], and
    # how images are spread over clusters or prototypes, name -> [b, K], rows that sum to 1.
    embeddings: dict = {}
    assignments: dict = {}


@dataclasses.dataclass(frozen=True)
class Task:
    """Base of all tasks. Fields are the paper's hyper-parameters; methods are pure.

    A model is made of *parts*, such as encoder, projector or head: `params` and `batch_stats` are
    {part: tree}. `state` is the TrainState; its `extra` is whatever changes without a gradient
    (queues, a memory of every image; 'teacher': {part: params} that follow the student's). Inside
    `loss` all arrays are this device's rows; losses and metrics are averaged over devices by the
    train step.
    """

    image_size: int = setting(224, at_least=1)  # pixels of the network's input

    # Fields of a record, beyond the image, that its views are made of: label, lung_mask, row.
    needs: ClassVar[tuple[str, ...]] = ()
    # Parts that it goes on training where the stage before left them, and parts that it leaves.
    takes: ClassVar[tuple[str, ...]] = ('encoder',)
    leaves: ClassVar[tuple[str, ...]] = ('encoder',)
    # The paper's settings of the stage, such as 'epochs' or 'optimizer.lr', over its defaults.
    recipe: ClassVar[dict] = {}
    # Over them, what lets the task learn from hundreds or thousands of small grey images in minutes
    # on a CPU: see configs/presets.py.
    small: ClassVar[dict] = {}
    # Part -> how the optimiser treats it unlike the others: {'scheduled': False}, its rate is the
    # peak rate throughout; {'momentum': False}, none.
    rules: ClassVar[dict[str, dict]] = {}
    # Entries of `extra` with a row for every image, parallel.padded(images) of them. In `loss` and
    # `after_update` they are this device's share, for parallel.take and put; elsewhere whole.
    by_image: ClassVar[tuple[str, ...]] = ()
    # Whether there is anything to train: if not, all is done in `between` before epoch 0.
    trains: ClassVar[bool] = True
    # What a search of the learning rate goes by, on the validation split: the loss, one of the
    # metrics, or 'headline' (a readout: the headline measure of its target).
    judged_by: ClassVar[str] = 'loss'
    # Whether its part `head` is a LinearHead on the pooled features: a stage after it can keep its
    # answers (see tasks.distil). The logits are classes, unless its `exclusive` is False.
    linear_head: ClassVar[bool] = False

    @property
    def smallest_input(self) -> int:
        """Pixels on a side of the smallest image that the encoder is given."""
        return self.image_size

    def resolve(self, facts: Facts) -> tuple['Task', dict[str, str]]:
        """Task without `auto`, and per resolved field the reason. UserError if it cannot run."""
        return self, {}

    @property
    def fresh_statistics(self) -> bool:
        """Whether the encoder's batch statistics become those of the whole training images before
        the first step; only for a task that `pauses`."""
        return False

    def views(self, key, example: dict) -> dict:
        """Views and pseudo-labels of one example (image [R, R, C] in [0, 1] and what the task
        `needs`: label, lung_mask [R, R, 1], row number); vmapped."""
        raise NotImplementedError

    def init(self, key, encoder, parts: dict) -> tuple[dict, dict, dict]:
        """-> (params, batch_stats, extra) of its own parts, the encoder not among them.

        parts: {part: {'params', 'batch_stats'}} that are handed over, at least the encoder.
        """
        raise NotImplementedError

    def loss(self, encoder, params: dict, state, views: dict, key) -> tuple:
        """-> (mean loss over this device's rows, Aux)."""
        raise NotImplementedError

    def after_update(self, params: dict, extra: dict, step) -> tuple[dict, dict]:
        """Changes that follow the optimiser's; identity by default."""
        return params, extra

    def frozen(self, facts: Facts) -> dict[str, int | None]:
        """Parts that are not updated at all before the given step; None: never."""
        return {}

    @property
    def pauses(self) -> bool:
        """Whether `between` does anything."""
        return type(self).between is not Task.between

    def between(self, state, epoch: int, features_of, labels=None):
        """State with what changes at the border before an epoch, 0 included; runs on the host.

        features_of(): pooled features [N, D] of the whole corpus in its order, whole images of
        `smallest_input` pixels. Deterministic. labels: of the same images, as the target gives
        them; only of a readout.
        """
        return state

    def picture(self, encoder, params: dict, batch_stats: dict, views: dict) -> dict:
        """{title of a row: images [B, S, S, C] in [0, 1]} for the report; {} for no picture.

        The model in evaluation mode, and views [B, ...] as the loss is given them.
        """
        return {}

    def chance_loss(self) -> float | None:
        """Loss of a model whose output is uniform; None if there is no such number."""
        return None


@dataclasses.dataclass(frozen=True)
class Readout(Task):
    """Base of the tasks that predict a target: one linear layer on the pooled features.

    Encoder and head train together, unless a subclass has it otherwise; what it adds is the meaning
    of the logits.
    """

    augment: Augmentation = Augmentation()  # of the training images
    outputs: int = derived(0)  # names of the target

    needs: ClassVar[tuple[str, ...]] = ('label',)
    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'head')
    judged_by: ClassVar[str] = 'headline'
    linear_head: ClassVar[bool] = True
    # Whether exactly one of the names is true for an image; None: either, as the target has it.
    exclusive: ClassVar[bool | None]
    # Why there are no activation maps, if there are none.
    no_maps: ClassVar[str] = ''

    def resolve(self, facts):
        if not facts.names:
            raise UserError(
                'The data set has no labels, so there is nothing to predict; prepare it with class '
                'folders or a csv with a label column, or end the run without a readout.'
            )
        names = ', '.join(facts.names)
        return dataclasses.replace(self, outputs=len(facts.names)), {'outputs': names}

    def views(self, key, example):
        image = self.augment(key, example['image'], self.image_size)
        return {'image': image, 'label': example['label']}

    @property
    def head(self) -> LinearHead:
        return LinearHead(self.outputs)

    def init(self, key, encoder, parts):
        features = jnp.zeros((1, encoder.feature_width))
        return {'head': self.head.init(key, features)['params']}, {'head': {}}, {}

    def loss(self, encoder, params, state, views, key):
        features = encoder(params['encoder'], state.batch_stats['encoder'], views['image'])
        logits = self.logits(params, features)
        loss, metrics, extra = self.objective(logits, views['label'], state.extra)
        batch_stats = {'encoder': features.batch_stats, 'head': {}}
        return loss, Aux(batch_stats, extra, metrics, {'image': features.pooled})

    def logits(self, params, features):
        """Features of b images -> [b, K], K = outputs."""
        return self.head.apply({'params': params['head']}, features.pooled)

    def evidence(self, params):
        """Weights [D, K] of the features for each logit: what class activation maps show; None
        where logits are not linear in the features (then `no_maps` tells it)."""
        return params['head']['linear']['kernel']

    def objective(self, logits, labels, extra: dict) -> tuple:
        """logits [b, K] and labels as the target gives them -> (loss, metrics, extra)."""
        raise NotImplementedError

    def scores(self, logits):
        """[b, K] -> probabilities [b, K]."""
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
