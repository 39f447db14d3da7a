#!/usr/bin/env bash
# Sets everything up and runs the style check and the tests; arguments go to pytest.
source "$(dirname "$0")/setup.sh"
ruff check .
python -m pytest "$@"
