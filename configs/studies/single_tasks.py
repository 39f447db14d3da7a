"""What does each pretext task teach? Every task alone, read out from frozen features.

    python -m cxr_jax.study --config configs/studies/single_tasks.py
    python -m cxr_jax.study --config configs/studies/single_tasks.py:preset=small,readout=knn \
        --config.run.data.dir=/data --config.run.data.name=mine \
        --config.axes.curriculum="('scratch','moco','barlow')"

`scratch` is then an encoder that has seen nothing, what every task is compared with. The argument
is what follows the tasks in that of configs/curriculum.py; by default a linear probe on the
embedded phantoms, three seeds, with the settings of the preset `small`.
"""

from ml_collections import ConfigDict

from configs.study import curricula, study
from cxr_jax.study.grid import SCRATCH
from cxr_jax.tasks import TASKS


def get_config(recipe: str = 'preset=small,readout=probe') -> ConfigDict:
    """Locked config of the study."""
    config = study('single_tasks', recipe, curriculum=(SCRATCH, *curricula(TASKS, (1,))))
    config.run.data.name = 'synthetic_cxr'
    config.seeds = (0, 1, 2)
    config.compare.references = (SCRATCH,)
    config.compare.over = 'patients and seeds'
    return config.lock()
