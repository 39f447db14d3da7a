"""python -m cxr_jax.main --config configs/curriculum.py:moco_swav_rot [--workdir DIR]

Exit codes: 0 finished, 2 a mistake to correct (one paragraph on stderr), 75 stopped by SIGTERM or
Ctrl-C with everything saved: the same command goes on.
"""

import importlib.util
import pathlib
import shlex
import sys

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cxr_jax import curriculum
from cxr_jax.interrupt import EXIT_CODE, Interrupted
from data_pipelines.errors import UserError
from data_pipelines.loader import CARD_FILE
from data_pipelines.prepare import prepare

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File of the config and its argument, as configs/curriculum.py:moco_swav_rot.'
)
WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run and its report; default runs/<curriculum>-<preset>.'
)
EMBEDDED = 'synthetic_cxr'
EMBEDDED_IMAGES = 800
PHANTOM = 'Embedded phantom radiographs: the figures show that everything works, not more.'
FALLBACK = (
    f'Demo recipe: no prepared SIIM data was found in ./{curriculum.DATA_DIR} and no data was '
    f'named (--config.data.dir, --config.data.name). {PHANTOM}'
)


def choose_recipe(config: ConfigDict, config_file: str, overrides: dict) -> tuple[ConfigDict, str]:
    """Config with the preset `auto` decided, and the banner that its data calls for."""
    banner = PHANTOM
    if config.preset == 'auto':
        named = 'data.dir' in overrides or 'data.name' in overrides
        fallback = not named and not prepared_folder(config).joinpath(CARD_FILE).is_file()
        path, _, argument = config_file.partition(':')
        preset = 'demo' if fallback else 'thesis'
        config = load_config(path, f'{argument},preset={preset}', overrides)
        banner = FALLBACK if fallback else PHANTOM
    return config, banner if config.data.name == EMBEDDED else ''


def prepared_folder(config: ConfigDict) -> pathlib.Path:
    """Where the config's prepared data set lies."""
    folder = pathlib.Path(config.data.dir or curriculum.DATA_DIR)
    return folder / config.data.name / f'{config.data.size}px'


def load_config(path: str, argument: str, overrides: dict) -> ConfigDict:
    """get_config(argument) of the file `path`, with the flat overrides."""
    spec = importlib.util.spec_from_file_location('config_file', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(argument)
    config.update_from_flattened_dict(overrides)
    return config


def main(argv: list[str]) -> None:
    """Runs the curriculum of the flags."""
    logging.set_verbosity(logging.WARNING)  # orbax and TFDS report every step of theirs
    if len(argv) > 1:
        raise UserError(f'{" ".join(argv[1:])!r} is not a flag; flags begin with --.')
    if CONFIG.value is None:
        raise UserError(
            'No config was named; try --config configs/curriculum.py:moco_swav_rot,preset=demo.'
        )
    flag = flags.FLAGS['config']
    overrides = config_flags.get_override_values(flag)
    file = config_flags.get_config_filename(flag)
    config, banner = choose_recipe(CONFIG.value, file, overrides)
    if banner:
        print(f'*** {banner} ***', flush=True)
    embedded = config.data.name == EMBEDDED and not config.data.dir
    if embedded and not prepared_folder(config).joinpath(CARD_FILE).is_file():
        prepare(EMBEDDED, None, curriculum.DATA_DIR, config.data.size, images=EMBEDDED_IMAGES)
    name = f'{"_".join(config.curriculum) or "scratch"}-{config.preset}'
    workdir = pathlib.Path(WORKDIR.value or f'runs/{name}')
    command = shlex.join(['python', '-m', 'cxr_jax.main', *sys.argv[1:]])
    curriculum.run(config, workdir, banner, command)
    print(f'\nReport: {workdir / "results.md"}')


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser; a misspelt flag or override becomes a UserError."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f'The command line is not understood: {error}') from None


def command_line() -> None:
    """Exits with a code of this module's docstring; a user's mistake shows no traceback."""
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        sys.exit(_complain(str(error), 2))
    except Interrupted as stopped:
        sys.exit(_complain(f'{stopped}; start the same command again to go on.', EXIT_CODE))
    except Exception as error:
        # Orbax wraps what the system says in exceptions of its own.
        if 'No space left on device' not in str(error):
            raise
        sys.exit(_complain(f'The disk is full ({error}). Free space and start again: finished '
                           'stages and the last complete checkpoint are kept.', 2))  # fmt: skip


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == '__main__':
    command_line()
