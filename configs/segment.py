"""The lung segmenter: a compact U-Net.

    python -m cxr_jax.segment train --config configs/segment.py
    python -m cxr_jax.segment train --config configs/segment.py:full --config.data.name=mine
    python -m cxr_jax.segment apply --config configs/segment.py --segmenter runs/segment-x --name x

The argument names a preset: `demo` (the default: embedded phantoms at 80 px, minutes on two CPU
cores) or `full` (256 px, a wider and deeper network, for real radiographs on an accelerator).
Every field and its meaning: cxr_jax/run/segmenter.py, cxr_jax/tasks/segment.py.
"""

from ml_collections import ConfigDict

from cxr_jax.run.segmenter import make_config
from data_pipelines.errors import UserError

PRESETS = {
    'demo': {'stage.segment.checkpoint_epochs': 4.0},
    'full': {
        'data.size': 256,
        'network.width': 32,
        'network.depth': 5,
        'stage.segment.task.image_size': 256,
        'stage.segment.epochs': 100,
        'stage.segment.checkpoint_epochs': 4.0,
    },
}


def get_config(preset: str = 'demo') -> ConfigDict:
    """Locked config of a preset."""
    if preset not in PRESETS:
        raise UserError(
            f'{preset!r} is no preset of configs/segment.py; choose one of {", ".join(PRESETS)}.'
        )
    config = make_config()
    config.preset = preset
    config.update_from_flattened_dict(PRESETS[preset])
    return config.lock()
