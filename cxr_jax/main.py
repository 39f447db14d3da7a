"""python -m cxr_jax.main --config configs/curriculum.py:moco_swav_rot [--workdir DIR]

Exit codes: 0 finished, 2 a mistake to correct (one paragraph on stderr), 75 stopped by SIGTERM or
Ctrl-C with everything saved: the same command goes on.
"""

import difflib
import errno
import functools
import importlib.util
import itertools
import operator
import pathlib
import re
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
EXAMPLE = '--config configs/curriculum.py:moco_swav_rot,preset=demo'
NO_CONFIG = f'No config was named; try {EXAMPLE}.'
OVERRIDE = re.compile(r'--?(?:no)?config\.([^=]+)')
IN_ARGUMENT = ('curriculum', 'preset')
EMBEDDED = 'synthetic_cxr'
EMBEDDED_IMAGES = 800
PHANTOM = 'Embedded phantom radiographs: the figures show that everything works, not more.'
FALLBACK = (
    f'Demo recipe: no prepared SIIM data was found in ./{curriculum.DATA_DIR} and no data was '
    f'named (--config.data.dir, --config.data.name). {PHANTOM}'
)
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


def choose_recipe(config: ConfigDict, named: str, overrides: dict) -> tuple[ConfigDict, str]:
    """Config with the preset `auto` decided, and the banner that its data calls for."""
    banner = PHANTOM
    if config.preset == 'auto':
        # Any size counts: who prepared another one is told so, instead of getting the demo.
        prepared = pathlib.Path(curriculum.DATA_DIR).glob(f'{config.data.name}/*px/{CARD_FILE}')
        fallback = not ({'data.dir', 'data.name'} & overrides.keys() or any(prepared))
        path, _, argument = named.partition(':')
        preset = 'demo' if fallback else 'thesis'
        config = load_config(f'{path}:{argument},preset={preset}')
        config.update_from_flattened_dict(overrides)
        banner = FALLBACK if fallback else PHANTOM
    return config, banner if config.data.name == EMBEDDED else ''


def load_config(named: str) -> ConfigDict:
    """get_config(ARGUMENT) of the file in 'FILE:ARGUMENT'; UserError if there is none."""
    path, colon, argument = named.partition(':')
    if not (path.endswith('.py') and pathlib.Path(path).is_file()):
        raise UserError(
            f'There is no config file {path!r} in {pathlib.Path.cwd()}; name a .py file and its '
            f'argument, as {EXAMPLE}.'
        )
    spec = importlib.util.spec_from_file_location('config_file', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
        raise UserError(f'{path} is no config file: it has no get_config(). Try {EXAMPLE}.')
    return module.get_config(argument) if colon else module.get_config()


def main(argv: list[str]) -> None:
    """Runs the curriculum of the flags."""
    logging.set_verbosity(logging.WARNING)  # orbax and TFDS report every step of theirs
    if len(argv) > 1:
        raise UserError(
            f'{" ".join(argv[1:])!r} is not understood: everything is given by flags, as {EXAMPLE}.'
        )
    if CONFIG.value is None:
        raise UserError(NO_CONFIG)
    flag = flags.FLAGS['config']
    overrides = config_flags.get_override_values(flag)
    named = config_flags.get_config_filename(flag)
    config, banner = choose_recipe(CONFIG.value, named, overrides)
    if banner:
        print(f'*** {banner} ***', flush=True)
    prepared = pathlib.Path(curriculum.DATA_DIR, EMBEDDED, f'{config.data.size}px', CARD_FILE)
    if config.data.name == EMBEDDED and not config.data.dir and not prepared.is_file():
        prepare(EMBEDDED, None, curriculum.DATA_DIR, config.data.size, images=EMBEDDED_IMAGES)
    name = f'{"_".join(config.curriculum) or "scratch"}-{config.preset}'
    workdir = pathlib.Path(WORKDIR.value or f'runs/{name}')
    command = shlex.join(['python', '-m', 'cxr_jax.main', *sys.argv[1:]])
    curriculum.run(config, workdir, banner, command)
    print(f'\nReport: {workdir / "results.md"}')


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser; every mistake on the command line becomes a UserError."""
    named = named_config(argv)
    fields = [match[1] for match in map(OVERRIDE.match, argv[1:]) if match]
    if fields and not named:
        raise UserError(NO_CONFIG)
    config = load_config(named) if named else ConfigDict()
    for field in fields:
        check_field(config, field)
    try:
        return flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        option = str(error).removeprefix('flag ').partition(': ')[0]
        match = OVERRIDE.match(option)
        if not match:
            raise UserError(f'{option} cannot be used: {error}') from None
        present = functools.reduce(operator.getitem, match[1].split('.'), config)
        raise UserError(
            f'{option} cannot be used; write a value of the same kind as the present {present}.'
        ) from None
    except flags.Error as error:
        raise UserError(f'The command line is not understood: {error}') from None


def named_config(argv: list[str]) -> str:
    """The value of --config as written; '' without one."""
    for word, following in itertools.pairwise([*argv[1:], '']):
        flag, equals, value = word.partition('=')
        if flag in ('--config', '-config'):
            return value if equals else following
    return ''


def check_field(config: ConfigDict, name: str) -> None:
    """UserError unless `name`, as 'stage.moco.epochs', is a field that may be overridden."""
    if name in IN_ARGUMENT:
        raise UserError(
            f'--config.{name} is not set by itself, as other values depend on it: write it into '
            f'the argument, as {EXAMPLE}.'
        )
    section, path = config, 'config'
    for part in name.split('.'):
        known = list(section) if isinstance(section, ConfigDict) else []
        if part not in known:
            close = difflib.get_close_matches(part, known, 1)
            meant = f' Did you mean --{path}.{close[0]}?' if close else ''
            fields = f' It has {", ".join(known)}.' if known else ''
            raise UserError(
                f'--config.{name} does not exist: {path} has no {part!r}.{meant}{fields}'
            )
        section, path = section[part], f'{path}.{part}'
    if isinstance(section, ConfigDict):
        raise UserError(f'--{path} is a section; set one of its fields: {", ".join(section)}.')


def command_line() -> None:
    """Exits with a code of this module's docstring; a user's mistake shows no traceback."""
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        sys.exit(_complain(str(error), 2))
    except Interrupted as stopped:
        sys.exit(_complain(f'{stopped}; start the same command again to go on.', EXIT_CODE))
    except KeyboardInterrupt:
        sys.exit(_complain('Stopped; start the same command again to go on from the last '
                           'checkpoint.', EXIT_CODE))  # fmt: skip
    except Exception as error:
        advice = system_trouble(error)
        if not advice:
            raise
        sys.exit(_complain(advice, 2))


def system_trouble(error: Exception) -> str:
    """What to do about a full disk or an unusable folder; '' for every other error."""
    # Orbax wraps what the system says in exceptions of its own.
    if 'No space left on device' in str(error):
        return (
            f'The disk is full ({error}). Free space and start again: finished stages and the last '
            'complete checkpoint are kept.'
        )
    if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename:
        return (
            f'{error.filename} cannot be used ({error.strerror}). Name folders that can be '
            'written: --workdir for the report, --config.store for the trained stages, '
            '--config.data.dir for the prepared data.'
        )
    return ''


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == '__main__':
    command_line()
