"""Ranks that `srun` starts directly: each task's signals and exit code are then its own, with no torchrun between."""

from __future__ import annotations

import re
from collections.abc import MutableMapping

_FIRST_PORT, _PORTS = 20_000, 10_000
_FIRST_HOST = re.compile(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,\[]*))?.*")


def adopt_slurm_ranks(environment: MutableMapping[str, str]) -> None:
    """Say in torch's words (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) what Slurm says of this task.

    Nothing happens where torchrun has spoken, nor outside of a job step of several tasks. The port follows from the
    job's number, so that jobs that share a node do not meet; MASTER_ADDR and MASTER_PORT stay if they are set.
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    environment.setdefault("MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"]))
    environment.setdefault("MASTER_PORT", str(_FIRST_PORT + int(environment["SLURM_JOB_ID"]) % _PORTS))


def first_host(hosts: str) -> str:
    """The first of a Slurm host list: `node[07-09,12],login` is node07."""
    return _FIRST_HOST.sub(r"\1\2\3", hosts)
