"""python -m ilf_jax.review: see `ilf_jax.review.serving`."""

import sys

from ilf_jax.entry import absl_program
from ilf_jax.review import serving

if __name__ == "__main__":
    sys.exit(absl_program.run(serving, sys.argv))
