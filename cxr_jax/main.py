"""python -m cxr_jax.main --config configs/curriculum.py:moco_swav_rot [--workdir DIR]

Trains and evaluates one curriculum; exit codes as in cxr_jax.runtime.command_line.
"""

import pathlib
import shlex
import sys

from ml_collections import ConfigDict

from cxr_jax import report
from cxr_jax.run import curriculum, embedded
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.plan import make_plan
from cxr_jax.runtime import command_line, hosts, parallel
from data_pipelines.prepared.data import CARD_FILE
from data_pipelines.storage import places

EXAMPLE = '--config configs/curriculum.py:moco_swav_rot,preset=demo'
FALLBACK = (
    f'Demo recipe: no prepared SIIM data was found in ./{embedded.DATA_DIR} and no data was '
    f'named (--config.data.dir, --config.data.name). {embedded.BANNER}'
)


def choose_recipe(config: ConfigDict, named: str, overrides: dict) -> tuple[ConfigDict, str]:
    """Config with the preset `auto` decided, and the banner that its data calls for."""
    banner = embedded.BANNER
    if config.preset == 'auto':
        # Any size counts: who prepared another one is told so, instead of getting the demo.
        prepared = pathlib.Path(embedded.DATA_DIR).glob(f'{config.data.name}/*px/{CARD_FILE}')
        said = {'data.dir', 'data.name', 'data.pretext'} & overrides.keys()
        fallback = not (said or any(prepared))
        path, _, argument = named.partition(':')
        preset = 'demo' if fallback else 'siim_study'
        config = command_line.load_config(f'{path}:{argument},preset={preset}', EXAMPLE)
        config.update_from_flattened_dict(overrides)
        banner = FALLBACK if fallback else embedded.BANNER
    return config, banner if config.data.name == embedded.NAME else ''


def main() -> None:
    """Runs the curriculum of the flags."""
    config, banner = choose_recipe(command_line.CONFIG.value, *command_line.named_config())
    if banner:
        print(f'*** {banner} ***', flush=True)
    name = '_'.join(config.curriculum) or 'scratch'
    name += '' if config.readout == 'classify' else f'-{config.readout}'
    name += f'-{config.preset}'
    workdir = command_line.workdir(f'runs/{name}')
    hosts.on_first(embedded.prepare_if_missing, config)
    command = shlex.join(['python', '-m', 'cxr_jax.main', *sys.argv[1:]])
    plan = make_plan(config, open_sets(config), parallel.data_mesh().size)
    results = curriculum.run(plan, workdir, banner, command)
    print(report.format_table(results))
    print(f'\nReport: {places.name_of(workdir / "results.md")}')


if __name__ == '__main__':
    command_line.run(main, EXAMPLE, in_argument=('curriculum', 'readout', 'preset'))
