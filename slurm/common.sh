# shellcheck shell=bash
# Sourced by every job, which starts in the root of the checkout.
set -euo pipefail
# shellcheck source=slurm/site.env disable=SC1091
source "${MEGATRON_IPT_SITE:-slurm/site.env}"
if ((${#MODULES[@]})); then module load "${MODULES[@]}"; fi
if [ -n "$SCRATCH" ]; then export TMPDIR=$SCRATCH; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# Run the stage as a step of this job and exit as it does, or requeue the job if that can help: after a temporary
# failure (exit code 75, or death by a signal) in an attempt that finished something new.
run_stage() { # COMMAND...
  local code=0 attempts attempt
  attempts=$(realpath -m "$LOGS")/attempts
  attempt=$attempts/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
  rm -rf "$attempts/$SLURM_JOB_ID".*
  mkdir -p "$attempt"
  export MEGATRON_IPT_ATTEMPT=$attempt
  trap : TERM # Slurm sends it to the step too
  run_step "$@" || code=$?
  if ((code)); then
    if python3 megatron_ipt/attempts.py "$attempt" "$code"; then requeue; else code=$?; fi
  fi
  rm -rf "$attempt"
  exit "$code"
}

# Every task keeps its own exit code: when one ends, the others are not killed, but have a minute to end by themselves.
run_step() { # COMMAND...
  local options=(--kill-on-bad-exit=0 --wait=60)
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then options+=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi
  if [ -n "$CONTAINER_IMAGE" ]; then
    options+=(--container-image="$CONTAINER_IMAGE" --container-workdir="$PWD" --container-env=OMP_NUM_THREADS)
    options+=(--container-mounts="$PWD:$PWD,$MEGATRON_IPT_ATTEMPT:$MEGATRON_IPT_ATTEMPT${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
  fi
  srun "${options[@]}" "$@"
}

# Back into the queue under the same number. A job that was cancelled is no longer RUNNING and stays cancelled; one that
# was preempted is requeued by Slurm.
requeue() {
  local restarts=${SLURM_RESTART_COUNT:-0}
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" != RUNNING ]; then return; fi
  if ((restarts >= MAX_REQUEUES)); then
    echo "requeued $restarts times already (MAX_REQUEUES in the site settings): not requeued" >&2
    return
  fi
  echo "requeued: restart $((restarts + 1))"
  rm -rf "$MEGATRON_IPT_ATTEMPT"
  scontrol requeue "$SLURM_JOB_ID"
}
