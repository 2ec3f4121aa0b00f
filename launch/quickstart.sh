#!/usr/bin/env bash
# Sets up a bare machine and runs the quickstart: bash launch/quickstart.sh [WORKDIR]
_workdir="$(realpath -m "${1:-runs/quickstart}")"
[ $# -gt 0 ] || _workdir=""
# shellcheck source-path=SCRIPTDIR source=_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
install_requirements requirements.txt
exec "$PYTHON" -m ilf_jax.main --config=configs/quickstart.py --workdir="${_workdir:-runs/quickstart}"
