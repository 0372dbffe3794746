#!/usr/bin/env bash
# One host of the test cluster, as PID 1 of its own namespaces: host.sh NAME ADDRESS FOLDER COMMAND...
# It takes its name, sees the cluster's configuration and hosts, joins the network and keeps its daemon running.
set -euo pipefail
name=$1 address=$2 folder=$3
shift 3

hostname "$name"
mount --bind "$folder/etc" /etc/slurm
mount --bind "$folder/etc/hosts" /etc/hosts
ip link set lo up
if [ "$name" = ctl ]; then
  ip link add br0 type bridge
  ip addr add "$address/24" dev br0
  ip link set br0 up
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/run/munge.seed"
else
  mount -t proc proc /proc
  mount -t tmpfs tmpfs /dev/shm
  until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
  ip addr add "$address/24" dev eth0
  ip link set eth0 up
fi
touch "$folder/run/$name.up"
while true; do
  "$@" &
  wait $! || true
  sleep 1
done
