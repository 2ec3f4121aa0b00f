#!/usr/bin/env bash
# One run on a TPU pod slice, from nothing to nothing: creates the slice, copies the last commit, installs it, starts a
# process on every worker, follows the first one's log, fetches that, and deletes the slice when the run has ended. A
# connection that breaks is made again; the run does not depend on it. Ends with the run's exit code.
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
on_all "mkdir -p ilf-jax && tar -xzf ilf-jax.tar.gz -C ilf-jax && cd ilf-jax && \
{ [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; } && \
~/.local/bin/uv venv --python 3.11 .venv && \
~/.local/bin/uv pip install --python .venv/bin/python -r requirements.txt 'jax[tpu]' gcsfs"

program=".venv/bin/python -m ilf_jax.main $(printf '%q ' "$@")> run.log 2>&1; echo \$? > run.code"
on_all "cd ilf-jax && rm -f run.code && printf '%s' $(printf '%q' "$program") > run.sh && \
(nohup bash run.sh > /dev/null 2>&1 &)"
trap - EXIT # from here on the slice holds a run: it is deleted when that has ended, and not before

code=255 # what ssh says of a broken connection
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
