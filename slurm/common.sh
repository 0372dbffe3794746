# shellcheck shell=bash
# Sourced by every job, which starts in the root of the checkout.
set -euo pipefail
# shellcheck source=slurm/site.env disable=SC1091
source "${MEGATRON_IPT_SITE:-slurm/site.env}"
if ((${#MODULES[@]})); then module load "${MODULES[@]}"; fi
if [ -n "$SCRATCH" ]; then export TMPDIR=$SCRATCH; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# Run the stage as a step of this job and exit with its code, or requeue the job if that can help: after any failure but
# an error of the user (exit code 2), in an attempt that finished something new.
run_stage() { # COMMAND...
  local code=0 attempts attempt
  attempts=$(realpath -m "$LOGS")/attempts
  attempt=$attempts/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
  rm -rf "$attempts/$SLURM_JOB_ID".*
  mkdir -p "$attempt"
  export MEGATRON_IPT_ATTEMPT=$attempt
  trap : TERM # Slurm also sends it to the step, whose exit code decides
  run_step "$@" || code=$?
  if ((code)); then
    if python3 megatron_ipt/attempts.py "$attempt" "$code"; then requeue "$code"; else code=$?; fi
  fi
  rm -rf "$attempt" "$attempts/$SLURM_JOB_ID-nodes.json"
  exit "$code"
}

# Every task keeps its own exit code: when one exits, the others are not killed at once but have a minute to exit.
run_step() { # COMMAND...
  local options=(--kill-on-bad-exit=0 --wait=60)
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then options+=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi
  if [ -n "$CONTAINER_IMAGE" ]; then
    options+=(--container-image="$CONTAINER_IMAGE" --container-workdir="$PWD" --container-env=OMP_NUM_THREADS)
    options+=(--container-mounts="$PWD:$PWD,$MEGATRON_IPT_ATTEMPT:$MEGATRON_IPT_ATTEMPT${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
  fi
  if [ "${BIND_NUMA:-no}" = yes ]; then options+=(--cpu-bind=none); fi # Slurm would choose the CPUs before
  srun "${options[@]}" "$@"
}

# Requeue this job under the same id, without the nodes that failed repeatedly. A cancelled job is no longer RUNNING and
# stays cancelled; Slurm itself requeues one that was preempted.
requeue() { # EXIT_CODE
  local restarts=${SLURM_RESTART_COUNT:-0} failing
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" != RUNNING ]; then return; fi
  if ((restarts >= MAX_REQUEUES)); then
    echo "not requeued: it has been requeued $restarts times already (MAX_REQUEUES in the site settings)" >&2
    return
  fi
  echo "requeued: restart $((restarts + 1))"
  failing=$(cat "$MEGATRON_IPT_ATTEMPT/exclude")
  rm -rf "$MEGATRON_IPT_ATTEMPT"
  trap '' TERM # Slurm sends it to this script and its commands as soon as the job is requeued
  scontrol requeue "$SLURM_JOB_ID"
  if [ -n "$failing" ]; then exclude "$failing"; fi
  exit "$1"
}

# Exclude nodes from the next attempts, unless the partition has too few others. Slurm accepts this for pending jobs only,
# that is, after the requeue.
exclude() { # NODE,...
  local nodes=$1 others given
  given=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%x)
  if [ -n "$given" ] && [ "$given" != "(null)" ]; then nodes+=",$given"; fi
  others=$(sinfo --noheader --responding --Node --partition="$SLURM_JOB_PARTITION" --format=%N | sort --unique |
    grep --count --invert-match --line-regexp --fixed-strings --file=<(scontrol show hostnames "$nodes") || true)
  if ((others < SLURM_JOB_NUM_NODES)); then
    echo "$1 failed repeatedly, but the partition has only $others other nodes: not excluded" >&2
    return
  fi
  echo "excluded, since they failed repeatedly: $1"
  scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$nodes"
}
