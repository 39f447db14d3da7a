"""python -m cxr_jax.main --config configs/curriculum.py:moco_swav_rot [--workdir DIR]

Trains and evaluates one curriculum; exit codes as in cxr_jax.command_line.
"""

import pathlib
import shlex
import sys

from ml_collections import ConfigDict

from cxr_jax import command_line, curriculum
from data_pipelines.prepare import prepare
from data_pipelines.prepared import CARD_FILE

EXAMPLE = '--config configs/curriculum.py:moco_swav_rot,preset=demo'
EMBEDDED = 'synthetic_cxr'
EMBEDDED_IMAGES = 800
PHANTOM = 'Embedded phantom radiographs: the figures show that everything works, not more.'
FALLBACK = (
    f'Demo recipe: no prepared SIIM data was found in ./{curriculum.DATA_DIR} and no data was '
    f'named (--config.data.dir, --config.data.name). {PHANTOM}'
)


def choose_recipe(config: ConfigDict, named: str, overrides: dict) -> tuple[ConfigDict, str]:
    """Config with the preset `auto` decided, and the banner that its data calls for."""
    banner = PHANTOM
    if config.preset == 'auto':
        # Any size counts: who prepared another one is told so, instead of getting the demo.
        prepared = pathlib.Path(curriculum.DATA_DIR).glob(f'{config.data.name}/*px/{CARD_FILE}')
        fallback = not ({'data.dir', 'data.name'} & overrides.keys() or any(prepared))
        path, _, argument = named.partition(':')
        preset = 'demo' if fallback else 'thesis'
        config = command_line.load_config(f'{path}:{argument},preset={preset}', EXAMPLE)
        config.update_from_flattened_dict(overrides)
        banner = FALLBACK if fallback else PHANTOM
    return config, banner if config.data.name == EMBEDDED else ''


def prepare_embedded(config: ConfigDict) -> None:
    """Generates and prepares the phantoms if the config means them and they are not there."""
    prepared = pathlib.Path(curriculum.DATA_DIR, EMBEDDED, f'{config.data.size}px', CARD_FILE)
    if config.data.name == EMBEDDED and not config.data.dir and not prepared.is_file():
        prepare(EMBEDDED, None, curriculum.DATA_DIR, config.data.size, images=EMBEDDED_IMAGES)


def main() -> None:
    """Runs the curriculum of the flags."""
    config, banner = choose_recipe(command_line.CONFIG.value, *command_line.named_config())
    if banner:
        print(f'*** {banner} ***', flush=True)
    prepare_embedded(config)
    name = f'{"_".join(config.curriculum) or "scratch"}-{config.preset}'
    workdir = pathlib.Path(command_line.WORKDIR.value or f'runs/{name}')
    command = shlex.join(['python', '-m', 'cxr_jax.main', *sys.argv[1:]])
    curriculum.run(config, workdir, banner, command)
    print(f'\nReport: {workdir / "results.md"}')


if __name__ == '__main__':
    command_line.run(main, EXAMPLE, in_argument=('curriculum', 'preset'))
