"""python -m ilf_jax.report: see `ilf_jax.reporting.rebuild`."""

import sys

from ilf_jax.entry import absl_program
from ilf_jax.reporting import rebuild

if __name__ == "__main__":
    sys.exit(absl_program.run(rebuild, sys.argv))
