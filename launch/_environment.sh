# shellcheck shell=bash
# Sourced by the scripts in this folder: creates .venv on a bare machine and sets $PYTHON to its interpreter.
# ILF_JAX_PYTHON names the interpreter that creates it; default: the first Python 3.11 or later on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

_base="${ILF_JAX_PYTHON:-}"
if [ -z "$_base" ]; then
  for _candidate in python3 python3.13 python3.12 python3.11; do
    if command -v "$_candidate" >/dev/null && "$_candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      _base="$_candidate"
      break
    fi
  done
fi
if [ -z "$_base" ]; then
  echo "error: Python 3.11 or later is needed; set ILF_JAX_PYTHON to one" >&2
  exit 2
fi
PYTHON="$PWD/.venv/bin/python"

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

# Put large arrays on huge pages: a CPU step allocates gigabytes, and small pages cost up to a fifth of its time.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
