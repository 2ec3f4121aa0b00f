#!/usr/bin/env bash
# Runs on a TPU pod slice: creates the slice, copies the last commit, installs it, starts a process on every worker,
# follows the log of the first worker, fetches that log, and deletes the slice once the run has finished. The run does
# not depend on the ssh connection, which is reopened if it breaks. Exits with the run's exit code.
#   bash launch/tpu_pod.sh NAME ZONE TYPE -- --config=configs/tldr_5k.py --workdir=gs://BUCKET/runs/tldr
#   PRINT=1 bash launch/tpu_pod.sh ...      prints the commands and runs none of them
#   KEEP=1 bash launch/tpu_pod.sh ...       keeps the slice
# TYPE: accelerator type, such as v5litepod-16. VERSION: TPU software (default: tpu-ubuntu2204-base). PROJECT: Google
# Cloud project (default: gcloud's).
set -euo pipefail
if [ $# -lt 5 ] || [ "$4" != "--" ]; then
  echo "usage: bash launch/tpu_pod.sh NAME ZONE TYPE -- --config=FILE --workdir=gs://... [more flags]" >&2
  exit 2
fi
name="$1" zone="$2" type="$3"
shift 4
cd "$(dirname "${BASH_SOURCE[0]}")/.."
where=(--zone="$zone" ${PROJECT:+--project="$PROJECT"})

run() {
  if [ -n "${PRINT:-}" ]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

on_all() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

delete() {
  [ -n "${KEEP:-}" ] || run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
}

archive="${TMPDIR:-/tmp}/ilf-jax-$name.tar.gz"
run git archive --format=tar.gz --output="$archive" HEAD
run gcloud compute tpus tpu-vm create "$name" "${where[@]}" --accelerator-type="$type" \
  --version="${VERSION:-tpu-ubuntu2204-base}"
trap delete EXIT
run gcloud compute tpus tpu-vm scp "$archive" "$name:ilf-jax.tar.gz" "${where[@]}" --worker=all
on_all "mkdir -p ilf-jax && tar -xzf ilf-jax.tar.gz -C ilf-jax && cd ilf-jax && \
{ [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; } && \
~/.local/bin/uv venv --python 3.11 .venv && \
~/.local/bin/uv pip install --python .venv/bin/python -r requirements.txt 'jax[tpu]' gcsfs"

program=".venv/bin/python -m ilf_jax.main $(printf '%q ' "$@")> run.log 2>&1; echo \$? > run.code"
on_all "cd ilf-jax && rm -f run.code && printf '%s' $(printf '%q' "$program") > run.sh && \
(nohup bash run.sh > /dev/null 2>&1 &)"
trap - EXIT # the run has started: from here on, delete the slice only after the run has finished

code=255 # ssh's exit code for a broken connection
while [ "$code" -eq 255 ]; do
  code=0
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 --command="cd ilf-jax && touch run.log; \
tail -n 100 -F run.log & log=\$!; until [ -f run.code ]; do sleep 2; done; sleep 1; kill \$log; exit \$(cat run.code)" \
    || code=$?
  [ "$code" -ne 255 ] || sleep 20
done
run gcloud compute tpus tpu-vm scp "$name:ilf-jax/run.log" "$name.log" "${where[@]}" --worker=0
delete
exit "$code"
