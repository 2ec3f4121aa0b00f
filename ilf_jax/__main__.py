"""`python -m ilf_jax COMMAND ...` is `ilf-jax COMMAND ...`."""

import sys

from ilf_jax.cli import main

sys.exit(main())
