"""The only registry of tasks: a new task is one new file and one line here."""

from cxr_jax.tasks.classify import Classify
from cxr_jax.tasks.moco import MoCo
from cxr_jax.tasks.relloc import RelativeLocation
from cxr_jax.tasks.rot import Rotation
from cxr_jax.tasks.swav import SwAV

TASKS = {
    'moco': MoCo,
    'swav': SwAV,
    'rot': Rotation,
    'relloc': RelativeLocation,
    'classify': Classify,
}
