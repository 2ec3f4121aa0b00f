# shellcheck shell=bash
# Sourced by the scripts in this folder: creates .venv on a bare machine and sets $PYTHON to its interpreter.
# ILF_JAX_PYTHON names the interpreter that creates it; default: the first Python 3.11 or later on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="$PWD/.venv/bin/python"

# version_of PYTHON: prints 3.11 for example; fails if it does not start.
version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# is_new_enough PYTHON
is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

_base="${ILF_JAX_PYTHON:-}"
if [ -n "$_base" ]; then
  if ! _version="$(version_of "$_base")"; then
    echo "error: ILF_JAX_PYTHON=$_base does not start; name a Python 3.11 or later" >&2
    exit 2
  elif ! is_new_enough "$_base"; then
    echo "error: ILF_JAX_PYTHON=$_base is Python $_version; 3.11 or later is needed" >&2
    exit 2
  elif [ -x "$PYTHON" ] && [ -f .venv/pyvenv.cfg ]; then
    _there="$(sed -n 's/^version[a-z_]* *= *\([0-9]*\.[0-9]*\).*/\1/p' .venv/pyvenv.cfg | head -n 1)"
    if [ "$_there" != "$_version" ]; then
      echo "error: .venv has Python $_there, and ILF_JAX_PYTHON=$_base is $_version: delete .venv to have it made" \
        "anew, or unset ILF_JAX_PYTHON" >&2
      exit 2
    fi
  fi
elif [ ! -x "$PYTHON" ]; then
  for _candidate in python3 python3.13 python3.12 python3.11; do
    if command -v "$_candidate" >/dev/null && is_new_enough "$_candidate"; then
      _base="$_candidate"
      break
    fi
  done
  if [ -z "$_base" ]; then
    echo "error: Python 3.11 or later is needed; set ILF_JAX_PYTHON to one" >&2
    exit 2
  fi
fi

# install_requirements FILE...: installs each file, unless a file with the same content was installed before.
install_requirements() {
  [ -x "$PYTHON" ] || "$_base" -m venv .venv
  local file stamp
  for file in "$@"; do
    stamp=".venv/installed-${file//\//-}" # two of them are named requirements.txt
    if ! cmp -s "$file" "$stamp"; then
      echo "installing $file ..." >&2
      "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$file"
      cp "$file" "$stamp"
    fi
  done
}

# install_project: puts the command ilf-jax into .venv, for the code as it stands in this folder.
install_project() {
  if ! cmp -s setup.py .venv/installed-setup.py; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    cp setup.py .venv/installed-setup.py
  fi
}

# Put large arrays on huge pages: a CPU step allocates gigabytes, and small pages cost up to a fifth of its time.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
