"""How many labels does pretraining save? Curricula x shares of the labelled patients.

    python -m cxr_jax.study --config configs/studies/label_fraction.py
    python -m cxr_jax.study --config configs/studies/label_fraction.py:preset=siim_study \
        --config.run.data.dir=/data --config.seeds="(0,1,2)"

The pretext stages see every training image, the classifier only those of a share of the patients
(nested: the smaller share is a part of the larger one); so each pretext stage is trained once for
all shares. The argument is what follows the tasks in that of configs/curriculum.py; by default
everything runs on the embedded phantoms.
"""

from ml_collections import ConfigDict

from configs import curriculum
from configs.study import curricula, study
from cxr_jax.study.grid import level_name

# Share of the patients with labels -> how many times the epochs of the preset: fewer images, more
# passes.
PASSES = {0.05: 4, 0.1: 3, 0.25: 2, 0.5: 1.5, 1.0: 1}


def get_config(recipe: str = 'preset=demo') -> ConfigDict:
    """Locked config of the study."""
    run = curriculum.get_config(f'scratch,{recipe}')
    stage, epochs = f'stage.{run.readout}', run.stage[run.readout].epochs
    shares = tuple(
        (level_name(x), (('data.label_fraction', x), (f'{stage}.epochs', round(n * epochs))))
        for x, n in PASSES.items()
    )
    pretrained = curricula(('moco', 'rot'), (1, 2), first='moco')
    config = study(
        'label_fraction', recipe, curriculum=('scratch', *pretrained), label_fraction=shares
    )
    config.compare.references = ('scratch',)
    config.compare.family = ()  # one family: Holm's correction runs over all shares together
    if run.preset == 'demo':
        config.run.stage[run.readout].batch_size = 16  # the smallest share has fewer than 32
    return config.lock()
