"""python -m ilf_jax.compare: see `ilf_jax.comparison.command`."""

import sys

from ilf_jax.comparison import command
from ilf_jax.entry import absl_program

if __name__ == "__main__":
    sys.exit(absl_program.run(command, sys.argv))
