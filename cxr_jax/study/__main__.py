"""python -m cxr_jax.study: see cxr_jax.study.work."""

from cxr_jax.runtime import command_line
from cxr_jax.study.work import EXAMPLE, main

if __name__ == '__main__':
    command_line.run(main, EXAMPLE, in_argument=('name',))
