"""Measure speed, one JSON line per result on stdout.

    python scripts/bench.py step [--against torch]   the train step against XLA's own convolutions,
                                                     or against PyTorch
    python scripts/bench.py roofline                 where the time of a CPU step goes
    python scripts/bench.py views [--task moco]      share of each task's views in its step
    python scripts/bench.py train [--task moco]      steps with their data against steps alone
    python scripts/bench.py together [--task rot]    eight learning rates in one step
    python scripts/bench.py start                    from the command to its first step
    python scripts/bench.py input                    the loader against TFDS's own reading
    python scripts/bench.py ingest                   reading DICOM files against the obvious script
    python scripts/bench.py checkpoint               saving and restoring a whole state
    python scripts/bench.py scale                    1 to 8 devices; 1,000 to 100,000 images
    python scripts/bench.py against --old DIR        some of these, and those of an older checkout

Sides that are compared take turns, so that a busy machine slows all; medians and the least and
largest value of all --rounds are given.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.benches import (  # noqa: E402
    against,
    checkpoint,
    data,
    ingest,
    roofline,
    scale,
    start,
    step,
    train,
    views,
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """`run`, the function of the bench that was named, and its own flags with their values."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benches = parser.add_subparsers(dest='bench', required=True)

    def add(name: str, function, rounds: int = 5) -> argparse.ArgumentParser:
        bench = benches.add_parser(name, help=function.__doc__.partition('\n')[0])
        bench.add_argument('--rounds', type=int, default=rounds)
        bench.set_defaults(run=function)
        return bench

    add('step', step.bench_step).add_argument('--against', choices=('xla', 'torch'), default='xla')
    add('roofline', roofline.bench_roofline)
    add('views', views.bench_views).add_argument(
        '--task', dest='tasks', nargs='+', choices=views.ALL, default=views.ALL
    )
    add('train', train.bench_train).add_argument(
        '--task', dest='tasks', nargs='+', choices=views.ALL, default=train.TASKS
    )
    add('together', train.bench_together).add_argument('--task', choices=views.ALL, default='rot')
    add('start', start.bench_start, rounds=3)
    add('input', data.bench_input)
    add('ingest', ingest.bench_ingest)
    add('checkpoint', checkpoint.bench_checkpoint)
    more = add('scale', scale.bench_scale)
    more.add_argument('--task', choices=views.ALL, default='classify')
    more.add_argument('--devices', type=int, nargs='*', default=scale.DEVICES)
    more.add_argument('--records', type=int, nargs='*', default=scale.RECORDS)
    both = add('against', against.bench_against, rounds=3)
    both.add_argument('--old', type=Path, required=True, help='an older checkout')
    both.add_argument(
        '--what', type=against.parse_what, default='step,input', help=','.join(against.WHAT)
    )
    return parser.parse_args(argv)


def main() -> None:
    arguments = vars(parse())
    del arguments['bench']
    arguments.pop('run')(**arguments)


if __name__ == '__main__':
    main()
