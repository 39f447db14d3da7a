"""Certificates that take longer than the tests; exit code 1 if one is not given.

    python -m scripts.certify matrix [--only moco,rot] [--processes 2]
        every ordered pair of tasks: takes over, trains, resumes, one device equals four
    python -m scripts.certify resume [--kills 20] [--seed 0] [--only moco,rot] [--fault queue]
        every task, killed at any moment and started again, against an uninterrupted run

What they make lies in --folder. The matrix goes on where it was stopped, as long as the code is the
same.
"""

import argparse
import os
import pathlib
import sys

from tests import fake_devices

COMPILED = 'compiled'  # in a certificate's folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    certificates = parser.add_subparsers(dest='certificate', required=True)
    matrix = certificates.add_parser('matrix')
    matrix.add_argument('--processes', type=int, default=2)
    resume = certificates.add_parser('resume')
    resume.add_argument('--kills', type=int, default=20)
    resume.add_argument('--seed', type=int, default=0, help='of the moments')
    resume.add_argument(
        '--fault', default='', metavar='ENTRY',
        help='leave this entry of `extra` out of what is restored: the certificate must fail',
    )  # fmt: skip
    for name, each in (('matrix', matrix), ('resume', resume)):
        each.add_argument('--only', default='', metavar='TASK,TASK', help='of these tasks')
        each.add_argument('--folder', type=pathlib.Path, default=pathlib.Path('runs/certify', name))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    # Before JAX starts, here and in the processes that are started from here.
    fake_devices.use()
    arguments.folder = arguments.folder.resolve()
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(arguments.folder / COMPILED)
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
    from scripts.certificates import matrix, resume

    return {'matrix': matrix.certify, 'resume': resume.certify}[arguments.certificate](arguments)


if __name__ == '__main__':
    sys.exit(main())
