#!/usr/bin/env bash
# Sets up a bare machine and runs the quickstart: bash launch/quickstart.sh [WORKDIR]
_workdir="${1:-}"
case "$_workdir" in
  "" | /* | *://*) ;;
  *) _workdir="$PWD/$_workdir" ;; # of where it is called; what follows runs in the project's folder
esac
# shellcheck source-path=SCRIPTDIR source=_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
install_requirements requirements.txt
exec "$PYTHON" -m ilf_jax.main --config=configs/quickstart.py --workdir="${_workdir:-runs/quickstart}"
