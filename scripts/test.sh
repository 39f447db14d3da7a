#!/usr/bin/env bash
# Sets everything up and runs the style check and the tests; arguments go to pytest.
source "$(dirname "$0")/setup.sh"
ruff check .
# Two processes: most of the time is XLA compiling, on one core. Tests of a file share what they made.
python -m pytest -n 2 --dist loadfile "$@"
