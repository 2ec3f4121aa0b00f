"""`ilf-jax sweep` without an installation; see ilf_jax/sweeps/command_line.py. Run it in any folder."""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, ROOT)  # Python puts only a script's own folder there
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))  # for the cells

from ilf_jax.sweeps.command_line import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
