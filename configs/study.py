"""Many curricula, compared: every ordering, region, seed and set of classes that is listed.

    python -m cxr_jax.study --config configs/study.py:demo
    python -m cxr_jax.study --config configs/study.py:thesis --config.run.data.dir=/data
    python -m cxr_jax.study --config configs/study.py:orderings,length=2,preset=demo

The argument: `thesis` (the reference study: single tasks, ordered pairs, triples that begin with
MoCo, from scratch and from ImageNet; full images and lungs on black; two and four classes; the rate
of every stage searched), `orderings` (all orders of up to `length` of the four pretext tasks), or
`demo` (a few, on the embedded phantoms; 16 minutes on two CPU cores). `preset=` as in
curriculum.py.
"""

import itertools

from ml_collections import ConfigDict

from configs import curriculum
from data_pipelines.errors import UserError

PRETEXT = ('moco', 'swav', 'rot', 'relloc')
BASELINES = ('scratch', 'imagenet')
ALL = 'all'


def orderings(length: int, first: str = '') -> tuple[str, ...]:
    """'moco_swav', ...: the orders of `length` tasks, with `first` in front if given."""
    return tuple(
        '_'.join(order)
        for order in itertools.permutations(PRETEXT, length)
        if not first or order[0] == first
    )


CURRICULA = {
    'thesis': (*BASELINES, *PRETEXT, *orderings(2), *orderings(3, 'moco')),
    'demo': ('scratch', 'moco', 'swav', 'rot', 'moco_swav', 'moco_swav_rot'),
}
PRESETS = {'thesis': 'thesis', 'demo': 'demo', 'orderings': 'thesis'}


def get_config(argument: str = 'demo') -> ConfigDict:
    """Locked config of the study that `argument` names."""
    name, preset, length = parse(argument)
    config = ConfigDict()
    config.name = name
    config.curricula = CURRICULA.get(name) or (
        'scratch', *(each for n in range(1, length + 1) for each in orderings(n))
    )  # fmt: skip
    config.regions = ('full', 'lungs_black')  # see data.region
    config.seeds = (0,)
    config.class_sets = (ALL,)  # sets of classes told apart: all, or names joined by /
    config.imagenet_weights = ''  # safetensors file with torchvision's names; empty = left out
    config.resamples = 10000  # of the paired bootstrap of the comparisons
    # One run of the study; its curriculum, region, seed, classes and weights follow from the above.
    config.run = curriculum.get_config(f'{"_".join(PRETEXT)},preset={preset}')
    if name == 'thesis':
        config.class_sets = (ALL, 'negative/typical')
        for stage in (*PRETEXT, curriculum.CLASSIFIER):
            search = config.run.stage[stage].search
            search.protocol = 'thesis'
            search.epochs = 70 if stage == curriculum.CLASSIFIER else 20
    if name == 'demo':
        # Small enough to show what a search looks like.
        config.run.update_from_flattened_dict({
            'stage.rot.search.protocol': 'halving', 'stage.rot.search.count': 3,
            'stage.rot.search.low': 0.005, 'stage.rot.search.high': 0.08,
            'stage.rot.search.log': True, 'stage.rot.search.epochs': 3,
        })  # fmt: skip
    return config.lock()


def parse(argument: str) -> tuple[str, str, int]:
    """'orderings,length=2,preset=demo' -> ('orderings', 'demo', 2)."""
    name, *settings = argument.split(',')
    if name not in PRESETS:
        raise UserError(f'There is no study {name!r}; choose one of {", ".join(PRESETS)}.')
    found = {'preset': PRESETS[name], 'length': '2'}
    for setting in settings:
        key, _, value = setting.partition('=')
        if key not in found or (key == 'length' and name != 'orderings'):
            raise UserError(
                f'{setting!r} in {argument!r} is not understood; what may follow is preset=NAME '
                'and, for orderings, length=N.'
            )
        found[key] = value
    if found['length'] not in map(str, range(1, len(PRETEXT) + 1)):
        raise UserError(f'length={found["length"]} must be 1 to {len(PRETEXT)}.')
    if found['preset'] not in curriculum.presets.RECIPES:
        known = ', '.join(curriculum.presets.RECIPES)
        raise UserError(f'preset={found["preset"]} is not known; choose one of {known}.')
    return name, found['preset'], int(found['length'])
