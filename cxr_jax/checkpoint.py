"""python -m cxr_jax.checkpoint inspect DIR: see cxr_jax.store.inspection."""

import sys

from cxr_jax.store import inspection

if __name__ == '__main__':
    sys.exit(inspection.main(sys.argv[1:]))
