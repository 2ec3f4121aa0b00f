"""python -m ilf_jax.export: see `ilf_jax.export.export_command`."""

import sys

from ilf_jax.entry import absl_program
from ilf_jax.export import export_command

if __name__ == "__main__":
    sys.exit(absl_program.run(export_command, sys.argv))
