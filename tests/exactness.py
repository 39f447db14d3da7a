"""Ten training steps of every task in float64 on any mesh: what must not depend on the mesh.

In float64, because training multiplies rounding differences (MoCo's by about 100 a step at first):
in float32 a wrong reduction and a rounding would look alike.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models import resnet
from cxr_jax.models.encoder import Contract, Encoder, EncoderSettings
from cxr_jax.run.settings import read_stage, stage_config
from cxr_jax.runtime import parallel
from cxr_jax.store import trees
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.tasks.base import Facts
from cxr_jax.tasks.distil import Distillation, Distilled
from cxr_jax.train import state as states
from cxr_jax.train.optim import optimizer, rate_factor
from cxr_jax.train.step import make_train_step

BATCH, STEPS, SIZE = 32, 10, 40
DEPTH = 6  # a stem and two blocks
FACTS = Facts(
    images=128,
    batch_size=BATCH,
    steps_per_epoch=1,
    total_steps=STEPS,
    devices=8,
    feature_width=16,
    names=('negative', 'typical', 'other'),
)
MOCO = {'queue_size': 64, 'hidden': 'auto', 'features': 16}
# Every task in every way in which it treats batch statistics.
CASES = {
    'rot': ('rot', {}),
    'relloc': ('relloc', {'image_size': 48}),
    'moco, global batch norm': ('moco', MOCO | {'key_groups': 1}),
    'moco, shuffled groups': ('moco', MOCO | {'key_groups': 8}),
    # The queue (2 batches, from step 1) is full at step 3; the prototypes move from step 2 on.
    'swav': ('swav', {
        'queue_size': 64, 'queue_start_epoch': 1.0, 'freeze_epochs': 2.0, 'prototypes': 6,
        'hidden': 'auto', 'features': 16, 'small_crops': 2, 'small_size': 32,
    }),
    'barlow': ('barlow', {'projector': (16, 12)}),
    'byol': ('byol', {'hidden': 16, 'features': 8}),
    'simsiam': ('simsiam', {'features': 16, 'waist': 4}),
    'simclr': ('simclr', {'hidden': 16, 'features': 8}),
    # The centroids move at steps 4 and 8; small clusters are refilled as they occur.
    'odc': ('odc', {
        'clusters': 12, 'min_cluster': 6, 'centroid_steps': 4, 'hidden': 16, 'features': 8,
    }),
    'jigsaw': ('jigsaw', {'image_size': 48, 'permutations': 10, 'hidden': 8}),
    'classify': ('classify', {}),
    'rot, distilled': ('rot', {'distil': 'cassle'}),
}  # fmt: skip


class Network(resnet.ResNet):
    """ResNet's stem, pooling, one block of stride 1 and one of stride 2."""

    @property
    def feature_width(self) -> int:
        return 2 * self.width


resnet.STAGE_SIZES[DEPTH], resnet.EXPANSION[DEPTH] = (1, 1), 1


def make_encoder(contract: Contract) -> Encoder:
    """Encoder of Network in float64."""
    network = Network(DEPTH, 8, jnp.float64, axis_name=parallel.AXIS)
    return Encoder(EncoderSettings('tiny', 8), network, contract)


def compiled_step(case: str, mesh):
    """(train step, state at step 0) of the case, in float64."""
    name, settings = CASES[case]
    kinds, own = TASKS | READOUTS, {k: v for k, v in settings.items() if k != 'distil'}
    task = dataclasses.replace(kinds[name](image_size=SIZE), **own)
    task, _ = task.resolve(FACTS)
    if 'distil' in settings:
        task = Distilled(task, Distillation(settings['distil']))
    encoder = make_encoder(Contract(48, 8, 1, 'full', mean=0.5, std=0.25, fill=0.5))
    optimizer_settings = read_stage(name, stage_config(name).to_dict()).optimizer
    factor = rate_factor(optimizer_settings, STEPS, FACTS.steps_per_epoch)
    transform = optimizer(optimizer_settings, task.frozen(FACTS), task.rules)
    step = make_train_step(task, encoder, transform, factor, mesh)
    params, stats = encoder.init(jax.random.key(0), SIZE)
    parts = {'encoder': {'params': params, 'batch_stats': stats}}
    state = states.create(task, encoder, transform, parts, jax.random.key(1), 0.01)
    host = jax.device_get(jax.tree.map(widened, state))
    host = task.between(host, 0, pooled_features)
    return step, parallel.place(mesh, host, states.layout(task, host))


def widened(x):
    return x.astype(jnp.float64) if x.dtype == jnp.float32 else x


def pooled_features() -> np.ndarray:
    """Stands in for what the encoder makes of every image."""
    return np.random.default_rng(1).normal(size=(FACTS.images, FACTS.feature_width))


def batches():
    """All rows of every batch: smooth images, as noise would be averaged away."""
    rng = np.random.default_rng(0)
    for number in range(STEPS):
        coarse = rng.integers(0, 256, (BATCH, 6, 6, 1)).astype(np.float32)
        images = jax.image.resize(coarse, (BATCH, 48, 48, 1), 'cubic').clip(0, 255)
        labels = rng.integers(0, 3, BATCH).astype(np.int32)
        # Batches that overlap, within which an image may come twice.
        drawn = np.arange(BATCH, dtype=np.int32) * 5 % 31 + 24 * number
        row = drawn % FACTS.images
        yield {'image': np.asarray(images, np.uint8), 'label': labels, 'row': row}


def train(case: str, mesh) -> dict[str, np.ndarray]:
    """Every leaf of the state after STEPS steps, and the metrics of each step, by name."""
    step, state = compiled_step(case, mesh)
    share = BATCH // jax.process_count()
    own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    metrics = []
    for batch in batches():
        rows = parallel.put_rows(mesh, {name: values[own] for name, values in batch.items()})
        state, of_step, _ = step(state, rows)
        metrics.append(jax.device_get(of_step))
    state = parallel.replicate(mesh, state)
    return leaves_of({'state': trees.as_dict(state), 'metrics': metrics})


def leaves_of(tree) -> dict[str, np.ndarray]:
    """Every leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@functools.cache
def trained(case: str, devices: int) -> dict[str, np.ndarray]:
    """`train` on the first devices of this process."""
    with jax.enable_x64(True):
        return train(case, parallel.data_mesh(jax.devices()[:devices]))


def assert_equal(found: dict, expected: dict) -> None:
    """Equal but for the order of sums in float64, gradients (norm, momentum) included."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-8, atol=1e-8, err_msg=name)
