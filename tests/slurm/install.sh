#!/usr/bin/env bash
# Slurm's daemons and what its hosts need, from Debian's packages; nothing to do where they are installed.
set -euo pipefail
if hash slurmctld slurmd sbatch munged ip nsenter hostname 2>/dev/null; then exit; fi
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
  slurmctld slurmd slurm-client munge iproute2 util-linux procps hostname
