#!/usr/bin/env bash
# Runs N processes of one run on this machine's CPU (with GPUs, one process uses all GPUs of a machine):
#   bash launch/multiprocess.sh N -- --config=configs/NAME.py --workdir=DIR [flags of ilf_jax.main]
# Exits with the code of the first process that fails; the others get a minute to exit before they are killed.
# PYTHON names the interpreter; default: that of .venv, else python3.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ "$1" =~ ^[1-9][0-9]*$ ]] || [ "$2" != "--" ]; then
  echo "usage: bash launch/multiprocess.sh N -- --config=FILE --workdir=DIR [more flags of ilf_jax.main]" >&2
  exit 2
fi
count="$1"
shift 2
here="$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-$(test -x "$here/.venv/bin/python" && echo "$here/.venv/bin/python" || echo python3)}"
port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
export JAX_PLATFORMS=cpu PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

pids=()
for ((i = 0; i < count; i++)); do
  "$python" -m ilf_jax.main "$@" --coordinator_address="127.0.0.1:$port" --num_processes="$count" --process_id="$i" &
  pids+=($!)
done
trap 'kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true' TERM INT

code=0 deadline=""
exited=()
while [ "${#exited[@]}" -lt "$count" ]; do
  for pid in ${pids[@]+"${pids[@]}"}; do
    if [ -z "${exited[pid]:-}" ] && ! kill -0 "$pid" 2>/dev/null; then
      exited[pid]=yes
      status=0
      wait "$pid" || status=$?
      if [ "$status" -ne 0 ] && [ "$code" -eq 0 ]; then
        code="$status" deadline=$((SECONDS + 60))
      fi
    fi
  done
  if [ -n "$deadline" ] && [ "$SECONDS" -gt "$deadline" ]; then
    kill -KILL ${pids[@]+"${pids[@]}"} 2>/dev/null || true
  fi
  sleep 0.2 || true
done
exit "$code"
