#!/usr/bin/env bash
# One run on a TPU pod slice, from nothing to nothing: creates the slice, copies this checkout, installs it, runs on all
# workers, follows process 0's log, and deletes the slice when the run has ended.
#   bash launch/tpu_pod.sh NAME ZONE TYPE -- --config=configs/tldr_5k.py --workdir=gs://BUCKET/runs/tldr
#   PRINT=1 bash launch/tpu_pod.sh ...      prints every command and runs none
#   KEEP=1 bash launch/tpu_pod.sh ...       leaves the slice standing
# TYPE: an accelerator type such as v5litepod-16. VERSION: the software (tpu-ubuntu2204-base). PROJECT: gcloud's default.
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
on_all "mkdir -p ilf-jax && tar -xzf ilf-jax.tar.gz -C ilf-jax && cd ilf-jax && python3 -m venv .venv && \
.venv/bin/pip install --quiet -r requirements.txt && .venv/bin/pip install --quiet 'jax[tpu]' gcsfs"
flags="$(printf '%q ' "$@")"
# nohup: the run outlives a connection that breaks. The first worker's output is the one that speaks.
on_all "cd ilf-jax && nohup .venv/bin/python -m ilf_jax.main $flags > run.log 2>&1; tail -n 20 run.log"
