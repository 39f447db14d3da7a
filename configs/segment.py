"""The lung segmenter: a compact U-Net.

    python -m cxr_jax.segment train --config configs/segment.py
    python -m cxr_jax.segment train --config configs/segment.py:full --config.data.name=image_folder
    python -m cxr_jax.segment apply --config configs/segment.py --segmenter runs/segment-x --name x

The argument names a preset: `demo` (the default: embedded phantoms at 80 px, minutes on two CPU
cores) or `full` (256 px, a wider and deeper network, for real radiographs on an accelerator).
"""

from ml_collections import ConfigDict

from configs.curriculum import stage_config
from cxr_jax.store.settings import to_settings
from cxr_jax.tasks.segment import Segment
from data_pipelines.errors import UserError

PRESETS = {
    'demo': {},
    'full': {
        'data.size': 256,
        'network.width': 32,
        'network.depth': 5,
        'stage.segment.task.image_size': 256,
        'stage.segment.epochs': 100,
    },
}


def get_config(preset: str = 'demo') -> ConfigDict:
    """Locked config of a preset."""
    if preset not in PRESETS:
        raise UserError(
            f'{preset!r} is no preset of configs/segment.py; choose one of {", ".join(PRESETS)}.'
        )
    config = ConfigDict()
    config.preset = preset  # where the values below come from
    config.seed = 0  # of the weights, the views, the order of the data and the bootstrap
    config.store = ''  # folder of the trained stages; empty = `stages` beside the workdir
    config.folds = 0  # train: cross-validate over so many folds of patients; 0 = the data's splits
    config.data = ConfigDict()
    config.data.dir = ''  # folder of the prepared data sets; empty = `data`
    config.data.name = 'synthetic_cxr'  # prepared data set
    config.data.size = 80  # pixels of the prepared images
    config.network = ConfigDict()
    config.network.width = 16  # channels of the first feature map
    config.network.depth = 3  # times the image is halved
    config.network.dtype = 'auto'  # of the computation; auto = bfloat16 on accelerators
    config.eval = ConfigDict()
    config.eval.batch_size = 64  # images per step
    config.eval.resamples = 2000  # of the patient bootstrap behind the 95 % intervals
    stage = stage_config('classify')
    del stage.search  # the segmenter's rate is not searched
    stage.batch_size = 8
    stage.epochs = 30
    stage.checkpoint_epochs = 4.0
    stage.optimizer.lr = 0.3
    stage.optimizer.nesterov = True
    stage.optimizer.schedule = 'cosine'
    stage.optimizer.warmup_epochs = 1.0
    stage.task = ConfigDict(to_settings(Segment(image_size=80)))  # cxr_jax/tasks/segment.py
    config.stage = ConfigDict({'segment': stage})
    config.update_from_flattened_dict(PRESETS[preset])
    return config.lock()
