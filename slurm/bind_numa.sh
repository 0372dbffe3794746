#!/usr/bin/env bash
# Run a command on the CPUs and in the memory of the NUMA node of this rank's GPU: slurm/bind_numa.sh COMMAND...
# Other memory is used only when that of the node is full. Where the node is not known, the command runs unbound.
set -euo pipefail

run_unbound() { # REASON COMMAND...
  echo "warning: rank ${SLURM_PROCID:-${RANK:-0}} is not bound to a NUMA node: $1" >&2
  shift
  exec "$@"
}

gpu_of_rank() { # prints the index or UUID of the GPU that this rank uses
  local rank=${SLURM_LOCALID:-${LOCAL_RANK:-0}} gpus
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  else
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
  fi
  ((${#gpus[@]})) || return 1
  echo "${gpus[rank % ${#gpus[@]}]}"
}

numa_node_of() { # GPU: prints the number of its NUMA node
  local address node
  address=$(nvidia-smi --id="$1" --query-gpu=pci.bus_id --format=csv,noheader) || return 1
  address=${address,,}
  address=${address: -12} # sysfs writes 4 digits of the PCI domain, nvidia-smi 8
  node=$(cat "${SYSFS:-/sys}/bus/pci/devices/$address/numa_node" 2>/dev/null) || return 1
  ((node >= 0)) || return 1 # -1: the firmware does not say
  echo "$node"
}

command -v nvidia-smi >/dev/null || run_unbound "nvidia-smi was not found" "$@"
command -v numactl >/dev/null || run_unbound "numactl was not found" "$@"
gpu=$(gpu_of_rank) || run_unbound "nvidia-smi shows no GPU" "$@"
node=$(numa_node_of "$gpu") || run_unbound "this machine does not give the NUMA node of GPU $gpu" "$@"
binding=(numactl --cpunodebind="$node" --preferred="$node")
"${binding[@]}" true || run_unbound "the job has no CPUs on NUMA node $node, that of GPU $gpu" "$@"
exec "${binding[@]}" "$@"
