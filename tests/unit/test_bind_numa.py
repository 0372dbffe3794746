"""slurm/bind_numa.sh binds each rank to the NUMA node of its GPU, where the machine says which one that is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "bind_numa.sh"
NVIDIA_SMI = """#!/bin/bash
case "$*" in
  *--query-gpu=index*) printf '0\\n1\\n2\\n3\\n' ;;
  *--id=[0-3]\\ *) n=${*#*--id=}; echo "00000000:${n:0:1}B:00.0" ;;
  *--id=GPU-b*) echo "00000000:3B:00.0" ;;
  *) echo "No devices were found"; exit 6 ;;
esac
"""
NUMACTL = """#!/bin/bash
[ "$1" = --cpunodebind=9 ] && { echo "libnuma: node 9 not allowed" >&2; exit 1; }
bound=$*
while [[ $1 == --* ]]; do shift; done
BOUND="${bound% "$*"}" exec "$@"
"""
BINDINGS = {0: "0", 1: "0", 2: "-1", 3: "1"}
"""The NUMA node that made-up sysfs files give for each GPU."""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with commands and the files of sysfs."""
    (tmp_path / "bin").mkdir()
    for name, text in (("nvidia-smi", NVIDIA_SMI), ("numactl", NUMACTL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    for gpu, node in BINDINGS.items():
        set_node(tmp_path, gpu, node)
    return tmp_path


def set_node(machine: Path, gpu: int, node: str) -> None:
    folder = machine / "bus" / "pci" / "devices" / f"0000:{gpu}b:00.0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numa_node").write_text(f"{node}\n")


def run(machine: Path, **variables: str) -> tuple[str, str]:
    """The options of numactl under which a command ran, and the warnings."""
    done = subprocess.run(
        [SCRIPT, "bash", "-c", 'echo "${BOUND:-unbound} $1"', "bash", "an argument"],
        env={"PATH": f"{machine / 'bin'}:/usr/bin:/bin", "SYSFS": str(machine), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    ran, _, argument = done.stdout.strip().partition(" an argument")
    assert argument == "" and "an argument" in done.stdout
    return ran, done.stderr


@pytest.mark.parametrize(
    ("variables", "node"),
    [
        ({"SLURM_LOCALID": "3"}, 1),
        ({"SLURM_LOCALID": "0"}, 0),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,3"}, 1),
        ({"SLURM_LOCALID": "5", "CUDA_VISIBLE_DEVICES": "3"}, 1),  # each task sees only its own GPU
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,GPU-b"}, 1),
    ],
    ids=str,
)
def test_rank_runs_on_the_node_of_its_gpu(variables: dict[str, str], node: int, machine: Path) -> None:
    assert run(machine, **variables) == (f"--cpunodebind={node} --preferred={node}", "")


def test_rank_runs_unbound_where_the_node_is_not_known(machine: Path) -> None:
    ran, warned = run(machine, SLURM_LOCALID="2", SLURM_PROCID="10")
    assert ran == "unbound"
    assert warned == (
        "warning: rank 10 is not bound to a NUMA node: this machine does not give the NUMA node of GPU 2\n"
    )
    assert run(machine, CUDA_VISIBLE_DEVICES="MIG-x")[0] == "unbound"


def test_rank_runs_unbound_where_the_job_has_no_cpus_of_the_node(machine: Path) -> None:
    set_node(machine, 0, "9")
    ran, warned = run(machine)
    assert ran == "unbound"
    assert "the job has no CPUs on NUMA node 9, that of GPU 0" in warned


@pytest.mark.parametrize("command", ["nvidia-smi", "numactl"])
def test_rank_runs_unbound_without(command: str, machine: Path) -> None:
    (machine / "bin" / command).unlink()
    ran, warned = run(machine)
    assert ran == "unbound"
    assert f"{command} was not found" in warned
