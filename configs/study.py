"""Studies: grids of curricula, regions, classes, seeds, or of any other fields of a run.

    python -m cxr_jax.study --config configs/study.py:demo
    python -m cxr_jax.study --config configs/study.py:siim_study --config.run.data.dir=/data
    python -m cxr_jax.study --config configs/study.py:orderings,tasks=rot_moco_barlow,preset=demo
    python -m cxr_jax.study --config configs/study.py:demo --config.axes.region="('full',)" \
        --config.axes.curriculum="('scratch','moco_rot')" --config.seeds="(0,1,2)"

The argument: `siim_study` (also `thesis`: the reference study; single tasks, ordered pairs, triples
that begin with MoCo, from scratch and from ImageNet; full images and lungs on black; two and four
classes; the rate of every stage searched), `orderings` (all orders of up to `length=2` of
`tasks=`, by default the reference study's), or `demo` (a few, on the embedded phantoms; 16 minutes
on two CPU cores). `preset=` and `readout=` as in curriculum.py. A study of one's own is a page: see
studies/label_fraction.py.
"""

import itertools
from collections.abc import Iterable, Sequence

from ml_collections import ConfigDict

from configs import curriculum
from cxr_jax.run.settings import stages_of
from cxr_jax.study.comparison import REFERENCES
from cxr_jax.study.grid import IMAGENET, SCRATCH, level_name
from cxr_jax.tasks import TASKS
from data_pipelines.errors import UserError

SIIM_TASKS = ('moco', 'swav', 'rot', 'relloc')  # those that the reference study is about
REGIONS = ('full', 'lungs_black')  # see data.region
PRESETS = {'siim_study': 'siim_study', 'demo': 'demo', 'orderings': 'siim_study'}
ALIASES = {'thesis': 'siim_study'}


def get_config(argument: str = 'demo') -> ConfigDict:
    """Locked config of the study that `argument` names."""
    name, recipe, tasks, length = parse(argument)
    regions, everything = over('data.region', REGIONS), over('data.classes', ((),))
    if name == 'demo':
        chosen = (SCRATCH, 'moco', 'swav', 'rot', 'moco_swav', 'moco_swav_rot')
        config = study(name, recipe, curriculum=chosen, region=regions, classes=everything)
        # Small enough to show what a search looks like.
        config.run.update_from_flattened_dict({
            'stage.rot.search.protocol': 'halving', 'stage.rot.search.count': 3,
            'stage.rot.search.low': 0.005, 'stage.rot.search.high': 0.08,
            'stage.rot.search.log': True, 'stage.rot.search.epochs': 3,
        })  # fmt: skip
    elif name == 'orderings':
        chosen = (SCRATCH, *curricula(tasks, range(1, length + 1)))
        config = study(name, recipe, curriculum=chosen, region=regions, classes=everything)
    else:
        chosen = (
            SCRATCH, IMAGENET, *curricula(SIIM_TASKS, (1, 2)), *curricula(SIIM_TASKS, (3,), 'moco')
        )  # fmt: skip
        classes = over('data.classes', ((), ('negative', 'typical')))
        config = study(name, recipe, curriculum=chosen, region=regions, classes=classes)
        for stage, settings in config.run.stage.items():
            settings.search.protocol = 'thesis'
            settings.search.epochs = 20 if stage in TASKS else 70
    return config.lock()


def study(name: str, recipe: str, **axes: Sequence) -> ConfigDict:
    """Unlocked config of a grid over `axes`, which are lists of levels; `recipe`: what follows the
    tasks in the argument of curriculum.py, as 'preset=demo,readout=findings'.

    A level is (its name, ((field of `run`, value), ...)) or, on the axis `curriculum`, a name that
    tells everything, as 'moco_rot'; `curricula` and `over` make such lists. The first axis makes
    the rows of the tables and is what is compared, the second one the columns.
    """
    rows, columns = [*axes, ''][:2]
    config = ConfigDict()
    config.name = name
    config.axes = ConfigDict()  # the levels that are run, by their names
    config.levels = ConfigDict()  # what they are called -> the fields of `run` that they set
    for axis, levels in axes.items():
        defined = tuple(level for level in levels if isinstance(level, tuple))
        config.levels[axis] = defined
        config.axes[axis] = tuple(x[0] if isinstance(x, tuple) else x for x in levels)
    config.seeds = (0,)
    config.imagenet_weights = ''  # safetensors file with torchvision's names; empty = left out
    config.layout = ConfigDict()
    config.layout.rows = rows  # axis
    config.layout.columns = columns  # axis or empty; all others turn the page
    config.compare = ConfigDict()
    config.compare.axis = rows  # whose levels are compared, all others being equal; empty: none
    config.compare.references = REFERENCES  # levels that all others are compared with
    config.compare.family = (columns,) if columns else ()  # Holm's correction: for each of their
    config.compare.resamples = 10000  # of the paired bootstrap
    config.compare.over = 'patients'  # what it draws: patients, or patients and seeds
    # One run of the study; its seed and what the levels set follow from the above.
    config.run = curriculum.get_config(f'{"_".join(TASKS)},{recipe}')
    return config


def curricula(tasks: Iterable[str], lengths: Iterable[int], first: str = '') -> tuple[str, ...]:
    """'moco', 'moco_swav', ...: all orders of so many of `tasks`, or those that begin with one."""
    orders = (order for n in lengths for order in itertools.permutations(tasks, n))
    return tuple('_'.join(order) for order in orders if first in ('', order[0]))


def over(field: str, values: Iterable) -> tuple:
    """An axis over the values of one field of `run`."""
    return tuple((level_name(value), ((field, value),)) for value in values)


def parse(argument: str) -> tuple[str, str, tuple[str, ...], int]:
    """'orderings,length=3' -> ('orderings', 'preset=siim_study,readout=classify', tasks, 3)."""
    name, *chosen = argument.split(',')
    name = ALIASES.get(name, name)
    if name not in PRESETS:
        known = ', '.join((*PRESETS, *ALIASES))
        raise UserError(f'There is no study {name!r}; choose one of {known}.')
    found = {'preset': PRESETS[name], 'readout': 'classify'}
    own = {'tasks': '_'.join(SIIM_TASKS), 'length': '2'} if name == 'orderings' else {}
    found |= own
    for setting in chosen:
        key, _, value = setting.partition('=')
        if key not in found:
            raise UserError(
                f'{setting!r} in {argument!r} is not understood; what may follow is preset=NAME, '
                'readout=NAME and, for orderings, tasks=NAMES and length=N.'
            )
        found[key] = value
    recipe = ','.join(f'{key}={value}' for key, value in found.items() if key not in own)
    if not own:
        return name, recipe, (), 0
    tasks, length = stages_of(found['tasks']), found['length']
    if length not in map(str, range(1, len(tasks) + 1)):
        raise UserError(f'length={length} must be 1 to {len(tasks)}, the number of tasks.')
    return name, recipe, tasks, int(length)
