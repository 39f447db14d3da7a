"""A curriculum small enough for tests: 34 phantoms of 40 px, ResNet-18 of width 8 at 32 px."""

import functools

import jax
import pytest

from configs.curriculum import get_config
from cxr_jax import parallel, stage
from cxr_jax.curriculum import initial_backbone
from cxr_jax.models.backbone import build_backbone
from cxr_jax.plan import make_plan
from data_pipelines.prepare import prepare

IMAGES, SIZE, STEPS = 48, 40, 8
SETTINGS = {
    'data.size': SIZE,
    'backbone.width': 8,
    'eval.resamples': 100,
    'moco.task.queue_size': '16',
    'moco.task.key_groups': 2,
    'moco.task.features': 16,
    'swav.task.queue_size': '16',
    # The queue is filled from step 4 on and used from step 6 on; the prototypes move from step 2.
    'swav.task.queue_start_epoch': 1.0,
    'swav.task.freeze_epochs': 0.5,
    'swav.task.prototypes': '6',
    'swav.task.features': 16,
    'swav.task.small_size': 32,
}
EACH = {'batch_size': 8, 'epochs': 2, 'checkpoint_epochs': 0.5, 'task.image_size': 32}


def tiny_settings(curriculum, **settings):
    """Flat overrides {'stage.moco.epochs': 2, ...} for the config of these tasks."""
    tasks = (*curriculum.split('_'), 'classify')
    flat = {f'stage.{name}.{field}': value for name in tasks for field, value in EACH.items()}
    for name, value in SETTINGS.items():
        section = name.partition('.')[0]
        if section in ('data', 'backbone', 'eval'):
            flat[name] = value
        elif section in tasks:
            flat[f'stage.{name}'] = value
    return flat | settings
