"""A curriculum of pretext tasks, then a readout.

    python -m cxr_jax.main --config configs/curriculum.py:moco_swav_rot
    python -m cxr_jax.main --config configs/curriculum.py:scratch,preset=demo
    python -m cxr_jax.main --config configs/curriculum.py:moco_moco_rot,readout=none \
        --config.stage.moco.data.sets="('nih14',)" --config.stage.moco2.epochs=5

The argument: task names joined by `_` in their order, or `scratch` (no pretext task); a task that
comes again is a stage of its own, `moco2`. Then, in any order, `,readout=NAME`: `classify` (the
default), `findings` (several per image), `probe` or `knn` (a linear layer or the nearest neighbours
on the frozen encoder's features; of classes or findings) or `none` (the run leaves an encoder); and
`,preset=NAME`: `siim_study` (batch, epochs, optimisers of the reference study, and its epochs for
the tasks that it does not have; also called `thesis`), `demo` (a small network on the embedded
phantom data, minutes on two CPU cores), `small` (the same network on one's own hundreds or
thousands of images, longer), `papers` (the methods' own ImageNet recipes), `auto` (the default:
siim_study where the prepared SIIM data is found; else, if no data was named, demo).

Every field and its meaning: cxr_jax/run/settings.py, cxr_jax/train/stage.py,
cxr_jax/train/optim.py, cxr_jax/models/encoder.py; of a task: cxr_jax/tasks/<task>.py.
"""

from ml_collections import ConfigDict

from configs import presets
from cxr_jax.run.settings import RunSettings, kind_of, make_config, stages_of
from cxr_jax.tasks import READOUTS, TASKS
from data_pipelines.errors import UserError

NONE = 'none'


def get_config(argument: str = '') -> ConfigDict:
    """Locked config of the curriculum and preset that `argument` names."""
    curriculum, chosen = parse(argument)
    preset = presets.ALIASES.get(chosen['preset'], chosen['preset'])
    recipe = 'siim_study' if preset == 'auto' else preset
    config = make_config(
        RunSettings(curriculum=curriculum, readout=chosen['readout'], preset=preset)
    )
    for layer in presets.layers(recipe, {}):
        config.update_from_flattened_dict(
            {path: value for path, value in layer.items() if not path.startswith('stage.')}
        )
    for name, stage in config.stage.items():
        for layer in presets.layers(recipe, (TASKS | READOUTS)[kind_of(name)].small):
            for kind in ('readout' if name in READOUTS else 'pretext', 'own', kind_of(name)):
                head = f'stage.{kind}.'
                stage.update_from_flattened_dict(
                    {k.removeprefix(head): v for k, v in layer.items() if k.startswith(head)}
                )
    return config.lock()


def parse(argument: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """'moco_rot,preset=demo' -> (('moco', 'rot'), {'preset': 'demo', 'readout': 'classify'})."""
    names, *chosen = argument.split(',')
    if not names:
        raise UserError(
            'No tasks were named; write them behind the config file, as '
            'configs/curriculum.py:moco_swav_rot, or configs/curriculum.py:scratch for none.'
        )
    known = {
        'preset': ('auto', *presets.RECIPES, *presets.ALIASES),
        'readout': (*READOUTS, NONE),
    }
    found = {'preset': 'auto', 'readout': 'classify'}
    for setting in chosen:
        key, _, value = setting.partition('=')
        if key not in known or value not in known[key]:
            choices = ' and '.join(f'{k}= one of {", ".join(v)}' for k, v in known.items())
            raise UserError(
                f'{setting!r} in {argument!r} is not understood; after the tasks may follow '
                f'{choices}.'
            )
        found[key] = value
    return stages_of(names), found
