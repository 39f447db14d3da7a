"""How many labels does pretraining save? Curricula x shares of the labelled patients.

    python -m cxr_jax.study --config configs/studies/label_fraction.py
    python -m cxr_jax.study --config configs/studies/label_fraction.py:thesis \
        --config.run.data.dir=/data --config.seeds="(0,1,2)"

The pretext stages see every training image, the classifier only those of a share of the patients
(nested: the smaller share is a part of the larger one); so each pretext stage is trained once for
all shares. The argument is the preset, as in configs/curriculum.py; by default everything runs on
the embedded phantoms.
"""

from ml_collections import ConfigDict

from configs.study import curricula, study

# Share of the patients with labels -> epochs of the classifier: fewer images, more passes.
EPOCHS = {0.05: 120, 0.1: 90, 0.25: 60, 0.5: 40, 1.0: 30}


def get_config(preset: str = 'demo') -> ConfigDict:
    """Locked config of the study."""
    config = study(
        'label_fraction',
        preset,
        curriculum=('scratch', *curricula(('moco', 'rot'), (1, 2), first='moco')),
        label_fraction=tuple(
            (f'{share:g}', (('data.label_fraction', share), ('stage.classify.epochs', epochs)))
            for share, epochs in EPOCHS.items()
        ),
    )
    config.compare.references = ('scratch',)
    config.compare.family = ()  # one family: Holm's correction runs over all shares together
    config.run.stage.classify.batch_size = 16  # the smallest share holds 28 phantoms
    return config.lock()
