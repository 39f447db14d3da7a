"""The bench `checkpoint`: how long a whole TrainState takes to be saved, and to be restored."""

import tempfile
import time
from contextlib import closing
from pathlib import Path

import jax

from cxr_jax.runtime import parallel
from cxr_jax.store.bundle import write_bundle
from cxr_jax.store.checkpoint import Checkpoints
from scripts.benches.case import Case, Scale
from scripts.benches.measure import say, spread

SCALE = Scale('resnet50', width=64, size=224, stored=256, batch=256)


def bench_checkpoint(rounds: int) -> None:
    """A state saved and waited for, as on SIGTERM, then restored: MoCo with ResNet-50.

    `bundle_mib`: what is kept of it when its stage is finished.
    """
    case = Case('moco', SCALE, parallel.data_mesh(jax.devices()[:1]))
    _, state = case.step()
    like = jax.eval_shape(lambda: state)
    saved, restored, written = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            with closing(Checkpoints(Path(folder))) as checkpoints:
                start = time.perf_counter()
                checkpoints.save(state.replace(step=state.step + number), wait=True)
                saved.append(time.perf_counter() - start)
                start = time.perf_counter()
                checkpoints.restore(like)
                restored.append(time.perf_counter() - start)
            start = time.perf_counter()
            parts = {part: state.parts[part] for part in case.task.leaves}
            told = write_bundle(Path(folder), jax.device_get(parts), {})['parts']
            written.append(time.perf_counter() - start)
    say(bench='checkpoint', state='MoCo, ResNet-50', mib=_mib(state), rounds=rounds,
        **spread('save_s', saved), **spread('restore_s', restored),
        bundle_mib=round(sum(part['bytes'] for part in told.values()) / 2**20),
        **spread('bundle_s', written))  # fmt: skip


def _mib(tree) -> int:
    return round(sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / 2**20)
