"""A curriculum of pretext tasks, then the classifier.

    python -m cxr_jax.main --config configs/curriculum.py:moco_swav_rot
    python -m cxr_jax.main --config configs/curriculum.py:scratch,preset=demo
    python -m cxr_jax.main --config configs/curriculum.py:moco_rot --config.stage.moco.epochs=5

The argument: task names joined by `_` in their order, or `scratch` (no pretext task); then
`,preset=NAME`. Presets: `thesis` (batch, epochs, optimisers of the reference study), `demo` (a
small network on the embedded phantom data, minutes on two CPU cores), `reference` (the methods'
own ImageNet defaults), `auto` (the default: thesis where the prepared SIIM data is found; else, if
no data was named, demo).
"""

from ml_collections import ConfigDict

from configs import presets
from cxr_jax.store.settings import to_settings
from cxr_jax.tasks import TASKS
from data_pipelines.errors import UserError

CLASSIFIER = 'classify'


def get_config(argument: str = '') -> ConfigDict:
    """Locked config of the curriculum and preset that `argument` names."""
    curriculum, preset = parse(argument)
    recipe = presets.RECIPES['thesis' if preset == 'auto' else preset]
    config = ConfigDict()
    config.curriculum = curriculum  # pretext tasks in their order; empty = from scratch
    config.preset = preset  # where the values below come from
    config.seed = 0  # of heads, views, order of the data and bootstrap
    config.store = ''  # folder of the trained stages; empty = `stages` beside the workdir
    config.data = ConfigDict()
    config.data.dir = ''  # folder of the prepared data sets; empty = `data`
    config.data.name = 'siim_covid19'  # prepared data set
    config.data.size = 256  # pixels of the prepared images
    config.data.classes = ()  # names of those told apart by the classifier; empty = all
    config.data.masks = ''  # lung masks written by cxr_jax.segment apply; empty = the stored ones
    config.data.on_device = 0.0  # training images live on the devices if they take up to this share
    config.data.region = 'full'  # full, lungs_black, lungs_gray or background
    config.backbone = ConfigDict()
    config.backbone.depth = 50  # ResNet-18, 34, 50 or 101, or DenseNet-121
    config.backbone.width = 64  # channels of the stem; the paper's 64
    config.backbone.channels = 1  # of the input; 3 repeats the grey image
    config.backbone.dtype = 'auto'  # of the computation; auto = bfloat16 on accelerators
    config.backbone.remat = False  # compute each block again for its gradient, to save memory
    config.backbone.weights = ''  # safetensors file with torchvision's names to start from
    config.eval = ConfigDict()
    config.eval.batch_size = 64  # test images per step
    config.eval.resamples = 2000  # of the patient bootstrap behind the 95 % intervals
    config.stage = ConfigDict({name: stage_config(name) for name in (*curriculum, CLASSIFIER)})
    for path, value in recipe.items():
        section, _, rest = path.partition('.')
        if section != 'stage' or rest.partition('.')[0] in config.stage:
            config.update_from_flattened_dict({path: value})
    return config.lock()


def stage_config(name: str) -> ConfigDict:
    """Settings of one stage; the values are the reference implementations' (presets.REFERENCE)."""
    stage = ConfigDict()
    stage.batch_size = 256  # images per step, over all devices
    stage.epochs = 100  # passes over the training images
    stage.checkpoint_epochs = 1.0  # epochs between two checkpoints
    stage.optimizer = ConfigDict()
    stage.optimizer.name = 'sgd'  # sgd (PyTorch's) or lars (official SwAV's)
    stage.optimizer.lr = 0.1  # peak learning rate, for the batch size above
    stage.optimizer.momentum = 0.9
    stage.optimizer.nesterov = False  # Nesterov's momentum
    stage.optimizer.weight_decay = 1e-4  # of every parameter of the backbone
    stage.optimizer.head_weight_decay = 1e-4  # of every parameter of the head
    stage.optimizer.trust = 0.001  # LARS: ratio of update to weights
    stage.optimizer.schedule = 'cosine'  # cosine, step or constant
    stage.optimizer.by_epoch = False  # change the rate only between epochs
    stage.optimizer.final_factor = 0.0  # cosine: last rate as a share of lr
    stage.optimizer.milestones = (0.6, 0.8)  # step: where the rate drops, as shares of the stage
    stage.optimizer.step_factor = 0.1  # step: factor at each milestone
    stage.optimizer.warmup_epochs = 0.0  # linear warm-up
    stage.optimizer.warmup_ratio = 0.0  # share of the rate that the warm-up starts from
    stage.search = ConfigDict()  # of the learning rate, on the validation split
    stage.search.protocol = 'off'  # off, thesis, sampled or halving: see cxr_jax/run/search.py
    stage.search.low = 0.01  # lowest candidate
    stage.search.high = 0.25  # highest candidate
    stage.search.count = 6  # candidates
    stage.search.log = False  # candidates even in the logarithm
    stage.search.epochs = 20  # of every candidate; halving: what the cuts are fractions of
    stage.search.fraction = 0.08  # sampled: share of the training images
    stage.search.batch_sizes = ()  # candidates too; empty = the stage's own
    stage.task = ConfigDict(to_settings(TASKS[name]()))  # comments: cxr_jax/tasks/<name>.py
    stage.update_from_flattened_dict(presets.REFERENCE[name])
    return stage


def parse(argument: str) -> tuple[tuple[str, ...], str]:
    """'moco_rot,preset=demo' -> (('moco', 'rot'), 'demo'); UserError for what is not known."""
    names, *settings = argument.split(',')
    if not names:
        raise UserError(
            'No tasks were named; write them behind the config file, as '
            'configs/curriculum.py:moco_swav_rot, or configs/curriculum.py:scratch for none.'
        )
    curriculum = () if names == 'scratch' else tuple(names.split('_'))
    pretext = [name for name in TASKS if name != CLASSIFIER]
    for name in curriculum:
        if name not in pretext:
            raise UserError(
                f'{argument!r} names an unknown pretext task, {name!r}. Known tasks: '
                f'{", ".join(pretext)}; join them by _ in their order, as in '
                'configs/curriculum.py:moco_swav_rot, or write scratch for none. The classifier '
                'always follows by itself.'
            )
    twice = sorted({name for name in curriculum if curriculum.count(name) > 1})
    if twice:
        raise UserError(
            f'The curriculum {names!r} names {", ".join(twice)} more than once; leave out all but '
            'one.'
        )
    preset = 'auto'
    known = ('auto', *presets.RECIPES)
    for setting in settings:
        key, _, preset = setting.partition('=')
        if key != 'preset' or preset not in known:
            raise UserError(
                f'{setting!r} in {argument!r} is not understood; the only argument after the tasks '
                f'is preset=NAME with NAME one of {", ".join(known)}.'
            )
    return curriculum, preset
