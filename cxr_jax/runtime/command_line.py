"""The command line of every program: config, overrides, several processes, errors, exit codes.

Exit codes: 0 finished, 2 a mistake to correct (one paragraph on stderr), 75 stopped by SIGTERM or
Ctrl-C with everything saved, or another process is at work on the same: the same command goes on.
"""

import contextlib
import difflib
import errno
import functools
import importlib.util
import itertools
import operator
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cxr_jax.runtime import allocator, hosts
from cxr_jax.runtime.compilation import use_cache
from cxr_jax.runtime.interrupt import EXIT_CODE, Interrupted
from cxr_jax.store.claim import Busy, Lost
from data_pipelines.errors import UserError
from data_pipelines.storage import places

CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE:ARGUMENT of the config.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run and its report, or a URL.')
DETERMINISTIC = flags.DEFINE_bool(
    'deterministic', False, 'On GPUs: the same bits in every run; slower. Elsewhere that is so '
    'anyway.',
)  # fmt: skip
DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Run over several processes, each of which is started like this; all of '
    'them must see the same folders, or name URLs. Found out from a TPU pod, Slurm or Open MPI, '
    'unless given by the next three flags.',
)  # fmt: skip
COORDINATOR = flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of process 0.')
PROCESSES = flags.DEFINE_integer('num_processes', None, 'Number of processes.', lower_bound=1)
PROCESS = flags.DEFINE_integer('process_id', None, 'Number of this process.', lower_bound=0)
OVERRIDE = re.compile(r'--?(?:no)?config\.([^=]+)')
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


def run(
    main: Callable[..., None],
    example: str,
    in_argument: tuple[str, ...] = (),
    commands: tuple[str, ...] = (),
) -> None:
    """Parses the flags, runs `main`, exits with a code of this module's docstring.

    `example`: a --config flag that works, for error texts. `in_argument`: fields that follow from
    the config's argument and are not set by themselves. `commands`: words one of which stands
    before the flags and is given to `main`.
    """

    def checked(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # orbax and TFDS report every step of theirs
        command = [word for word in argv[1:2] if word in commands]
        if commands and not command:
            words = ' or '.join(commands)
            raise UserError(f'Say what to do, {words}; try {commands[0]} {example}.')
        if len(argv) > 1 + len(command):
            words = ' '.join(argv[1 + len(command) :])
            raise UserError(
                f'{words!r} is not understood: everything is given by flags, as {example}.'
            )
        if CONFIG.value is None:
            raise UserError(f'No config was named; try {example}.')
        with contextlib.ExitStack() as until_the_end:
            _start_jax(until_the_end)
            main(*command)

    use_cache()
    # Where nothing is being trained, SIGTERM does what Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app.run(checked, flags_parser=functools.partial(_parse_flags, example, in_argument))
    except (Busy, Lost) as error:
        _complain(str(error), EXIT_CODE)
    except UserError as error:
        _complain(str(error), 2)
    except Interrupted as stopped:
        print(f'{stopped}; start the same command again to go on.', file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        _complain('Stopped; start the same command again to go on from the last checkpoint.',
                  EXIT_CODE)  # fmt: skip
    except Exception as error:
        advice = _system_trouble(error)
        if advice:
            _complain(advice, 2)
        if not hosts.connected():
            raise
        _complain(traceback.format_exc(), 1)


def _start_jax(until_the_end: contextlib.ExitStack) -> None:
    """What the flags say of JAX, before anything is computed."""
    allocator.keep_freed_memory()
    if DETERMINISTIC.value:
        # Includes: no autotuning, whose choice of kernels differs from run to run.
        before = os.environ.get('XLA_FLAGS', '')
        os.environ['XLA_FLAGS'] = f'{before} --xla_gpu_deterministic_ops=true'
    if DISTRIBUTED.value:
        hosts.connect(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        if not hosts.is_first():
            nowhere = until_the_end.enter_context(open(os.devnull, 'w'))  # noqa: SIM115
            until_the_end.enter_context(contextlib.redirect_stdout(nowhere))


def workdir(default: str) -> pathlib.Path:
    """The folder of --workdir, or of a URL its working copy; UserError."""
    folder = places.local(WORKDIR.value or default)
    if places.url_of(folder) and not places.url_of(folder.parent):
        raise UserError(
            f'--workdir={WORKDIR.value} is a whole bucket; name a folder in it, such as '
            f'{places.url_of(folder)}/{default}.'
        )
    return folder


def named_config() -> tuple[str, dict]:
    """FILE:ARGUMENT as written, and the overridden fields as {'stage.moco.epochs': value}."""
    flag = flags.FLAGS['config']
    return config_flags.get_config_filename(flag), config_flags.get_override_values(flag)


def load_config(named: str, example: str) -> ConfigDict:
    """get_config(ARGUMENT) of the file in 'FILE:ARGUMENT'; UserError if there is none."""
    path, colon, argument = named.partition(':')
    if not (path.endswith('.py') and pathlib.Path(path).is_file()):
        raise UserError(
            f'There is no config file {path!r} in {pathlib.Path.cwd()}; name a .py file and its '
            f'argument, as {example}.'
        )
    spec = importlib.util.spec_from_file_location('config_file', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
        raise UserError(f'{path} is no config file: it has no get_config(). Try {example}.')
    return module.get_config(argument) if colon else module.get_config()


def _parse_flags(example: str, in_argument: tuple[str, ...], argv: list[str]) -> list[str]:
    """absl's parser; every mistake on the command line becomes a UserError."""
    named = _config_as_written(argv)
    fields = [match[1] for match in map(OVERRIDE.match, argv[1:]) if match]
    if fields and not named:
        raise UserError(f'No config was named; try {example}.')
    config = load_config(named, example) if named else ConfigDict()
    for field in fields:
        if field in in_argument:
            raise UserError(
                f'--config.{field} is not set by itself, as other values depend on it: write it '
                f'into the argument, as {example}.'
            )
        _check_field(config, field)
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


def _config_as_written(argv: list[str]) -> str:
    """The value of --config; '' without one."""
    for word, following in itertools.pairwise([*argv[1:], '']):
        flag, equals, value = word.partition('=')
        if flag in ('--config', '-config'):
            return value if equals else following
    return ''


def _check_field(config: ConfigDict, name: str) -> None:
    """UserError unless `name`, as 'stage.moco.epochs', is a field that may be overridden."""
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


def _system_trouble(error: Exception) -> str:
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


def _complain(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    hosts.leave(code)
