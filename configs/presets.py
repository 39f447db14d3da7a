"""Values of the presets, as flat `section.field` -> value over the recipes of the tasks."""

# The reference study: ResNet-50, SGD (LARS for SwAV), 30 epochs per pretext task, 150 for the
# classifier. It states no schedule, so the rate is constant; 0.01 is its classifier's stated rate
# and the lowest of its search grid for the others. Not stated either, and so our choice: crop
# areas, degrees of the rotation, network input of 224 px, MoCo's queue (as long as the data).
SIIM_STUDY = {
    'stage.rot.batch_size': 16,
    'stage.rot.epochs': 30,
    'stage.rot.optimizer.lr': 0.01,
    'stage.rot.optimizer.schedule': 'constant',
    'stage.rot.optimizer.warmup_epochs': 0.0,
    'stage.rot.optimizer.warmup_ratio': 0.0,
    'stage.rot.task.augment.crop_scale': (0.2, 1.0),
    'stage.relloc.batch_size': 32,
    'stage.relloc.epochs': 30,
    'stage.relloc.optimizer.lr': 0.01,
    'stage.relloc.optimizer.head_weight_decay': 1e-4,
    'stage.relloc.optimizer.schedule': 'constant',
    'stage.relloc.optimizer.warmup_epochs': 0.0,
    'stage.relloc.optimizer.warmup_ratio': 0.0,
    'stage.relloc.task.flip': 0.5,
    'stage.moco.batch_size': 32,
    'stage.moco.epochs': 30,
    'stage.moco.optimizer.lr': 0.01,
    'stage.moco.optimizer.schedule': 'constant',
    'stage.moco.task.queue_size': 'auto',
    'stage.moco.task.key_groups': 1,
    'stage.moco.task.augment.rotation': 10.0,
    'stage.moco.task.augment.jitter': 0.0,
    'stage.moco.task.augment.blur': 0.0,
    'stage.swav.batch_size': 8,
    'stage.swav.epochs': 30,
    'stage.swav.optimizer.lr': 0.01,
    'stage.swav.optimizer.schedule': 'constant',
    'stage.swav.task.queue_size': '64',
    'stage.swav.task.augment.rotation': 10.0,
    'stage.swav.task.augment.jitter': 0.0,
    'stage.swav.task.augment.blur': 0.0,
    # Tasks that the reference study does not have: its epochs, a batch that few images fill, their
    # own optimisers; the rates of SGD and LARS in proportion to the batch (Goyal et al. 2017).
    **{
        f'stage.{task}.{field}': value
        for task, rate in {
            'barlow': 0.05,
            'byol': 0.075,
            'simsiam': 0.0125,
            'simclr': 0.075,
            'odc': 0.0075,
            'jigsaw': 0.025,
            'lejepa': 5e-4,
        }.items()
        for field, value in {
            'batch_size': 64,
            'epochs': 30,
            'optimizer.lr': rate,
            'optimizer.warmup_epochs': 1.0,
        }.items()
    },
    'stage.genesis.epochs': 30,
    # Readouts of frozen features have settings of their own.
    **{
        f'stage.{readout}.{field}': value
        for readout in ('classify', 'findings')
        for field, value in {
            'batch_size': 64,
            'epochs': 150,
            'optimizer.lr': 0.01,
            'optimizer.schedule': 'constant',
        }.items()
    },
}

# Hundreds or thousands of small grey images on two CPU cores, minutes per stage: what each task
# needs to learn there is in its own file (`small`), over these.
SMALL = {
    'data.size': 80,
    'encoder.name': 'resnet18',
    'encoder.width': 16,
    'stage.pretext.batch_size': 64,
    'stage.pretext.task.image_size': 64,
    'stage.readout.batch_size': 32,
    'stage.readout.epochs': 30,
    'stage.readout.task.image_size': 64,
    'stage.readout.task.augment.crop_scale': (0.6, 1.0),
    'stage.readout.optimizer.lr': 0.02,
    'stage.readout.optimizer.schedule': 'cosine',
    'stage.readout.optimizer.warmup_epochs': 1.0,
}
# The same on the embedded phantoms, cut short: three tasks and a readout in four minutes.
DEMO = {
    'data.name': 'synthetic_cxr',
    'stage.pretext.epochs': 6,
    'stage.rot.epochs': 3,
    'stage.relloc.epochs': 3,
    'stage.odc.epochs': 20,  # in fewer it hardly leaves chance
}

RECIPES = {'siim_study': SIIM_STUDY, 'small': {}, 'demo': DEMO, 'papers': {}}
ON_SMALL = ('small', 'demo')  # presets that are laid over SMALL and the tasks' `small`
ALIASES = {'thesis': 'siim_study'}


def layers(preset: str, small: dict) -> list[dict]:
    """What a preset lays over a task's recipe, each over the one before; `small` is the task's own.

    `stage.pretext.` and `stage.readout.` are every such stage, `stage.<task>.` those of a task.
    """
    own = {f'stage.own.{field}': value for field, value in small.items()}
    return [SMALL, own, RECIPES[preset]] if preset in ON_SMALL else [RECIPES[preset]]
