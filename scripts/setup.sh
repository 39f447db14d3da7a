# Sourced by the other scripts: goes to the repository's root and makes .venv if it is not there or
# older than the requirements. `python` is then the environment's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Other Python environments must not leak in.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
if ! cmp -s <(cat requirements.txt constraints.txt) .venv/installed 2>/dev/null; then
  echo "Installing the requirements into .venv (about a minute)"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; this is $(python3 --version)." >&2
    exit 1
  }
  python3 -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
  cat requirements.txt constraints.txt > .venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH"
