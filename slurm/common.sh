# shellcheck shell=bash
# Sourced by every job, which starts in the root of the checkout.
set -euo pipefail
# shellcheck source=slurm/site.env disable=SC1091
source "${MEGATRON_IPT_SITE:-slurm/site.env}"
if ((${#MODULES[@]})); then module load "${MODULES[@]}"; fi
if [ -n "$SCRATCH" ]; then export TMPDIR=$SCRATCH; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# The stage as a step of this job, which ends as the step does. 75 (EX_TEMPFAIL) asks to be started again; so does an
# end by USR1 or TERM, where Slurm announces a time limit or a preemption to a stage that just dies of it.
run_stage() { # COMMAND...
  local code=0
  trap : TERM # the step's to obey
  run_step "$@" || code=$?
  case $code in 75 | 138 | 143) requeue ;; esac
  exit "$code"
}

# Every task keeps its own exit code: one that ends is not followed by a kill of those that are still on their way out,
# but those that are left behind have a minute.
run_step() { # COMMAND...
  local options=(--kill-on-bad-exit=0 --wait=60)
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then options+=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi
  if [ -n "$CONTAINER_IMAGE" ]; then
    options+=(--container-image="$CONTAINER_IMAGE" --container-workdir="$PWD" --container-env=OMP_NUM_THREADS)
    options+=(--container-mounts="$PWD:$PWD${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
  fi
  srun "${options[@]}" "$@"
}

# Back into the queue under the same number. A job that was cancelled is no longer RUNNING and stays cancelled.
requeue() {
  local restarts=${SLURM_RESTART_COUNT:-0}
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" != RUNNING ]; then return; fi
  if ((restarts >= MAX_REQUEUES)); then
    echo "requeued $restarts times already (MAX_REQUEUES in the site settings): giving up" >&2
    return
  fi
  echo "back into the queue, time $((restarts + 1))"
  scontrol requeue "$SLURM_JOB_ID"
}
