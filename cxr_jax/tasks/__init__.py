"""The only registries of tasks: a new task is one new file and one line here.

A name holds no `_` and does not end in a digit: `moco_rot` and `moco2` are a curriculum and a
second MoCo stage.
"""

from cxr_jax.tasks.barlow import BarlowTwins
from cxr_jax.tasks.byol import BYOL
from cxr_jax.tasks.classify import Classify
from cxr_jax.tasks.findings import Findings
from cxr_jax.tasks.genesis import Genesis
from cxr_jax.tasks.jigsaw import Jigsaw
from cxr_jax.tasks.knn import NearestNeighbours
from cxr_jax.tasks.lejepa import LeJEPA
from cxr_jax.tasks.moco import MoCo
from cxr_jax.tasks.odc import ODC
from cxr_jax.tasks.probe import Probe
from cxr_jax.tasks.relloc import RelativeLocation
from cxr_jax.tasks.rot import Rotation
from cxr_jax.tasks.simclr import SimCLR
from cxr_jax.tasks.simsiam import SimSiam
from cxr_jax.tasks.swav import SwAV

# Pretext tasks: from images alone.
TASKS = {
    'moco': MoCo,
    'swav': SwAV,
    'barlow': BarlowTwins,
    'byol': BYOL,
    'simsiam': SimSiam,
    'simclr': SimCLR,
    'odc': ODC,
    'lejepa': LeJEPA,
    'rot': Rotation,
    'relloc': RelativeLocation,
    'jigsaw': Jigsaw,
    'genesis': Genesis,
}
# What a curriculum may end in: predicts a target.
READOUTS = {
    'classify': Classify,
    'findings': Findings,
    'probe': Probe,
    'knn': NearestNeighbours,
}
