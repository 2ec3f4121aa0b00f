#!/usr/bin/env bash
# Runs on a Cloud TPU slice: queues a request for it, waits, copies the last commit, installs it, starts a process on
# every worker, follows the log of the first worker, fetches that log, and deletes the slice once the run has finished.
# The run does not depend on the ssh connection, which is reopened if it breaks. Exits with the run's exit code, or with
# 75 if the slice was preempted: the same command then resumes the run. For GKE, which Google recommends, and which TPU7x
# needs, see launch/gke_jobset.yaml.
#   bash launch/tpu_pod.sh NAME ZONE TYPE -- --config=configs/tldr_5k.py --workdir=gs://BUCKET/runs/tldr
#   PRINT=1 bash launch/tpu_pod.sh ...      prints the commands, to paste into a shell, and runs none of them
# TYPE: accelerator type, such as v5litepod-16. Settings, as environment variables:
#   SPOT=1              a slice that may be preempted, for less
#   RESERVATION=NAME    a slice of a reservation
#   KEEP=1              keeps the slice
#   VERSION=NAME        TPU software; by default the one for TYPE
#   PROJECT=NAME        Google Cloud project; by default gcloud's
#   HF_TOKEN=TOKEN      for gated models; goes to the slice as a file that only its user can read
set -euo pipefail
if [ $# -lt 5 ] || [ "$4" != "--" ]; then
  echo "usage: bash launch/tpu_pod.sh NAME ZONE TYPE -- --config=FILE --workdir=gs://... [more flags]" >&2
  exit 2
fi
name="$1" zone="$2" type="$3"
shift 4
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# TPU software for JAX by accelerator type, as of November 2026:
# https://cloud.google.com/tpu/docs/runtimes
case "$type" in
  v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
  v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  v5p-*) version=v2-alpha-tpuv5 ;;
  v6e-*) version=v2-alpha-tpuv6e ;;
  tpu7x* | v7x*)
    echo "error: $type: TPU7x is to be had in GKE only; see launch/gke_jobset.yaml" >&2
    exit 2
    ;;
  *) version="" ;;
esac
version="${VERSION:-$version}"
if [ -z "$version" ]; then
  echo "error: $type: not a type known here (v4-N, v5litepod-N, v5p-N, v6e-N); set VERSION to its TPU software" >&2
  exit 2
fi
if [ -n "${SPOT:-}" ] && [ -n "${RESERVATION:-}" ]; then
  echo "error: SPOT and RESERVATION exclude each other" >&2
  exit 2
fi
where=(--zone="$zone" ${PROJECT:+--project="$PROJECT"})

# Words as one would type them.
quoted() {
  local word
  for word in "$@"; do
    case "$word" in
      "" | *[!A-Za-z0-9_@%+=:,./-]*) printf "'%s' " "${word//\'/\'\\\'\'}" ;;
      *) printf '%s ' "$word" ;;
    esac
  done
}

run() {
  if [ -n "${PRINT:-}" ]; then
    quoted "$@"
    printf '\n'
  else
    "$@"
  fi
}

# write FILE: its standard input, to a file that only the user can read.
write() {
  if [ -n "${PRINT:-}" ]; then
    printf "(umask 077 && cat > %s) <<'END'\n" "$1"
    cat
    printf 'END\n'
  else
    (umask 077 && cat > "$1")
  fi
}

on_all() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

state() {
  run gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format="value(state.state)"
}

delete() {
  [ -n "${KEEP:-}" ] || run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet ||
    echo "warning: $name was not deleted; see: gcloud compute tpus queued-resources list ${where[*]}" >&2
}

# now: the state that gcloud has told last, "" if it told none. Ten times in a row none: the slice is gone, or gcloud
# cannot reach Google Cloud.
now="" silent=0
ask() {
  now="$(state || true)"
  silent=$((silent + 1))
  [ -z "$now" ] || silent=0
  if [ "$silent" -ge 10 ]; then
    echo "error: gcloud does not tell the state of $name; if it is not in the list of" \
      "gcloud compute tpus queued-resources list ${where[*]}, then the same command resumes the run" >&2
    exit 75
  fi
}

forget_token() {
  [ -z "${HF_TOKEN:-}" ] || run rm -f "$local_files/hf_token"
}

local_files="${TMPDIR:-/tmp}/ilf-jax-$name"
run mkdir -p "$local_files"
run git archive --format=tar.gz --output="$local_files/ilf-jax.tar.gz" HEAD
write "$local_files/run.sh" <<END
cd ilf-jax${JAX_COMPILATION_CACHE_DIR:+
export JAX_COMPILATION_CACHE_DIR=$(quoted "$JAX_COMPILATION_CACHE_DIR")}
[ ! -f ../hf_token ] || export HF_TOKEN="\$(cat ../hf_token)"
rm -f ../hf_token
.venv/bin/python -m ilf_jax.main $(quoted "$@")> run.log 2>&1
echo \$? > run.code
END
files=("$local_files/ilf-jax.tar.gz" "$local_files/run.sh")
if [ -n "${HF_TOKEN:-}" ]; then
  files+=("$local_files/hf_token")
  trap forget_token EXIT
  if [ -n "${PRINT:-}" ]; then
    # shellcheck disable=SC2016 # the name of the variable, not what it holds
    printf '(umask 077 && printf %%s "$HF_TOKEN" > %s)\n' "$local_files/hf_token"
  else
    (umask 077 && printf %s "$HF_TOKEN" > "$local_files/hf_token") # printf is part of the shell: no process shows it
  fi
fi

gcloud=(gcloud)
kind=()
[ -z "${SPOT:-}" ] || kind=(--spot)
[ -z "${RESERVATION:-}" ] || gcloud=(gcloud alpha) kind=(--reservation="$RESERVATION")
run "${gcloud[@]}" compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" \
  --accelerator-type="$type" --runtime-version="$version" ${kind[@]+"${kind[@]}"}
trap 'forget_token; delete' EXIT
if [ -n "${PRINT:-}" ]; then
  echo "# until it says ACTIVE:"
  state
else
  ask
  until [ "$now" = ACTIVE ]; do
    case "$now" in
      FAILED | SUSPENDED | SUSPENDING)
        echo "error: the request for $name has failed; see: gcloud compute tpus queued-resources describe $name" >&2
        exit 75
        ;;
    esac
    sleep "${POLL_SECONDS:-20}"
    ask
  done
fi

run gcloud compute tpus tpu-vm scp "${files[@]}" "$name:" "${where[@]}" --worker=all
forget_token
trap delete EXIT
on_all "mkdir -p ilf-jax && tar -xzf ilf-jax.tar.gz -C ilf-jax && cd ilf-jax && \
{ [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; } && \
~/.local/bin/uv venv --python 3.11 .venv && \
~/.local/bin/uv pip install --python .venv/bin/python -r requirements.txt 'jax[tpu]' gcsfs"
on_all "rm -f ilf-jax/run.code && (nohup bash run.sh > /dev/null 2>&1 &)"
trap - EXIT # the run has started: from here on, delete the slice only after the run has finished

code=255 # ssh's exit code for a broken connection
while [ "$code" -eq 255 ]; do
  code=0
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 --command="cd ilf-jax && touch run.log; \
tail -n 100 -F run.log & log=\$!; until [ -f run.code ]; do sleep 2; done; sleep 1; kill \$log; exit \$(cat run.code)" \
    || code=$?
  if [ "$code" -eq 255 ]; then
    ask
    case "$now" in
      FAILED | SUSPEND*)
        echo "the slice was preempted; the same command resumes the run" >&2
        delete
        exit 75
        ;;
    esac
    sleep "${POLL_SECONDS:-20}"
  fi
done
run gcloud compute tpus tpu-vm scp "$name:ilf-jax/run.log" "$name.log" "${where[@]}" --worker=0
delete
exit "$code"
