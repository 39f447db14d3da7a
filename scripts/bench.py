"""Measure speed, one JSON line per result on stdout.

    python scripts/bench.py step       the train step's CPU lowering against XLA's own operations
    python scripts/bench.py input      the loader against TFDS's own reading, record by record
    python scripts/bench.py ingest     reading DICOM files against the obvious pydicom script

The sides take turns in one process, so that a busy machine slows all; medians and the least and
largest value of all rounds are given.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.benches import data, step  # noqa: E402

BENCHES = {'step': step.bench_step, 'input': data.bench_input, 'ingest': data.bench_ingest}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('bench', choices=BENCHES)
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()
    BENCHES[arguments.bench](arguments.rounds)


if __name__ == '__main__':
    main()
