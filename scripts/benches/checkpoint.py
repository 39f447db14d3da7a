"""The bench `checkpoint`: how long a whole TrainState takes to be saved, and to be restored."""

import tempfile
import time
from contextlib import closing
from pathlib import Path

import jax

from configs.curriculum import stage_config
from cxr_jax.models.encoder import Backbone
from cxr_jax.models.resnet import ResNet
from cxr_jax.store.checkpoint import Checkpoints
from cxr_jax.tasks import TASKS
from cxr_jax.tasks.base import Facts
from cxr_jax.train import optim
from cxr_jax.train import state as states
from scripts.benches.measure import say, spread


def bench_checkpoint(rounds: int) -> None:
    """A state saved and waited for, as on SIGTERM, then restored: MoCo with ResNet-50."""
    backbone = Backbone(ResNet(50, 64), mean=0.5, std=0.25)
    facts = Facts(
        images=100_000, batch_size=256, steps_per_epoch=390, devices=1,
        feature_width=backbone.feature_width, classes=(),
    )  # fmt: skip
    task, _ = TASKS['moco']().resolve(facts)
    transform = optim.optimizer(stage_config('moco').optimizer)

    def create():
        params, stats = backbone.init(jax.random.key(0), task.image_size)
        return states.create(task, backbone, transform, params, stats, jax.random.key(1), 0.03)

    state = jax.block_until_ready(jax.jit(create)())
    like = jax.eval_shape(create)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    saved, restored = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            with closing(Checkpoints(Path(folder))) as checkpoints:
                start = time.perf_counter()
                checkpoints.save(state.replace(step=state.step + number), wait=True)
                saved.append(time.perf_counter() - start)
                start = time.perf_counter()
                checkpoints.restore(like)
                restored.append(time.perf_counter() - start)
    say(bench='checkpoint', state='MoCo, ResNet-50', mib=round(size / 2**20), rounds=rounds,
        **spread('save_s', saved), **spread('restore_s', restored))  # fmt: skip
