#!/usr/bin/env bash
# Sets everything up, trains a curriculum on embedded phantom radiographs, shows what came out.
source "$(dirname "$0")/setup.sh"
python -m cxr_jax.main --config configs/curriculum.py:moco_swav_rot,preset=demo "$@"
