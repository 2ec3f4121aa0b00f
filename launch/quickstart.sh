#!/usr/bin/env bash
# Sets up a bare machine, runs the quickstart, and says how to go on: bash launch/quickstart.sh [WORKDIR]
_workdir="${1:-}"
case "$_workdir" in
  "" | /* | *://*) ;;
  *) _workdir="$PWD/$_workdir" ;; # of where it is called; what follows runs in the project's folder
esac
# shellcheck source-path=SCRIPTDIR source=_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
install_requirements requirements.txt
install_project
_workdir="${_workdir:-runs/quickstart}"
"$PYTHON" -m ilf_jax.main --config=configs/quickstart.py --workdir="$_workdir" &
_run=$!
# The run saves when it is stopped. A scheduler's signal reaches only this script, Ctrl-C the run, too.
trap 'kill -TERM "$_run"' TERM
trap ':' INT
_code=0
wait "$_run" || _code=$?
while kill -0 "$_run" 2>/dev/null; do # a signal interrupted the wait
  _code=0
  wait "$_run" || _code=$?
done
[ "$_code" -eq 0 ] || exit "$_code"
cat <<EOF

To go on:
  cd $(printf '%q' "$PWD") && source .venv/bin/activate
  ilf-jax generate --workdir=$(printf '%q' "$_workdir") "Ada the baker" "Finn the pilot"
  ilf-jax configs                   # what else there is to run
EOF
