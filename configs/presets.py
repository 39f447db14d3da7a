"""Values of the presets, as flat `section.field` -> value over the fields of curriculum.py."""

# The methods' own ImageNet recipes: MMSelfSup v0.5.0 configs; SwAV: the official 256-batch script.
REFERENCE = {
    'rot': {
        'batch_size': 128,
        'epochs': 70,
        'optimizer.lr': 0.2,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (30 / 70, 50 / 70),
        'optimizer.warmup_epochs': 5.0,
        'optimizer.warmup_ratio': 0.1,
    },
    'moco': {'epochs': 200, 'optimizer.lr': 0.03, 'optimizer.by_epoch': True},
    'swav': {
        'epochs': 200,
        'optimizer.name': 'lars',
        'optimizer.lr': 0.6,
        'optimizer.weight_decay': 1e-6,
        'optimizer.final_factor': 0.001,
    },
    'classify': {
        'epochs': 90,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (1 / 3, 2 / 3),
    },
}

# The reference study: ResNet-50, SGD (LARS for SwAV), 30 epochs per pretext task, 150 for the
# classifier. It states no schedule, so the rate is constant; 0.01 is its classifier's stated rate
# and the lowest of its search grid for the others. Not stated either, and so our choice: crop
# areas, degrees of the rotation, network input of 224 px, MoCo's queue (as long as the data).
THESIS = {
    'stage.rot.batch_size': 16,
    'stage.rot.epochs': 30,
    'stage.rot.optimizer.lr': 0.01,
    'stage.rot.optimizer.schedule': 'constant',
    'stage.rot.optimizer.warmup_epochs': 0.0,
    'stage.rot.optimizer.warmup_ratio': 0.0,
    'stage.rot.task.augment.crop_scale': (0.2, 1.0),
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
    'stage.classify.batch_size': 64,
    'stage.classify.epochs': 150,
    'stage.classify.optimizer.lr': 0.01,
    'stage.classify.optimizer.schedule': 'constant',
}

# Five minutes on two CPU cores, set-up included: little of everything, enough to beat chance.
DEMO = {
    'data.name': 'synthetic_cxr',
    'data.size': 80,
    'backbone.depth': 18,
    'backbone.width': 16,
    'stage.rot.batch_size': 32,
    'stage.rot.epochs': 3,
    'stage.rot.task.image_size': 64,
    'stage.rot.task.augment.crop_scale': (0.4, 1.0),
    'stage.rot.optimizer.lr': 0.02,
    'stage.rot.optimizer.schedule': 'cosine',
    'stage.rot.optimizer.warmup_epochs': 1.0,
    'stage.rot.optimizer.warmup_ratio': 0.0,
    'stage.moco.batch_size': 64,
    'stage.moco.epochs': 6,
    'stage.moco.task.image_size': 64,
    'stage.moco.task.queue_size': 'auto',
    'stage.moco.task.momentum': 0.99,
    'stage.moco.task.augment.rotation': 10.0,
    'stage.moco.optimizer.warmup_epochs': 1.0,
    'stage.swav.batch_size': 64,
    'stage.swav.epochs': 6,
    'stage.swav.task.image_size': 64,
    'stage.swav.task.small_size': 48,
    'stage.swav.task.small_crops': 2,
    'stage.swav.task.queue_size': '128',
    'stage.swav.task.queue_start_epoch': 2.0,
    'stage.swav.task.prototypes': '32',
    'stage.swav.task.hidden': 'auto',
    'stage.swav.task.freeze_epochs': 0.5,
    'stage.swav.task.augment.rotation': 10.0,
    'stage.swav.task.augment.jitter': 0.0,
    # LARS moves a weight by a thousandth of its size per step: too little for fifty steps.
    'stage.swav.optimizer.name': 'sgd',
    'stage.swav.optimizer.lr': 0.3,
    'stage.classify.batch_size': 32,
    'stage.classify.epochs': 30,
    'stage.classify.task.image_size': 64,
    'stage.classify.task.augment.crop_scale': (0.6, 1.0),
    'stage.classify.optimizer.lr': 0.02,
    'stage.classify.optimizer.schedule': 'cosine',
    'stage.classify.optimizer.warmup_epochs': 1.0,
}

RECIPES = {'thesis': THESIS, 'demo': DEMO, 'reference': {}}
