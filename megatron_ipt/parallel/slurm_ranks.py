"""Ranks started directly by `srun`, without torchrun, so that signals and exit codes are those of each rank."""

from __future__ import annotations

import re
from collections.abc import MutableMapping

_FIRST_PORT, _PORTS = 20_000, 10_000
_FIRST_HOST = re.compile(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,\[]*))?.*")


def adopt_slurm_ranks(environment: MutableMapping[str, str]) -> None:
    """Set torch's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) from those of Slurm.

    Does nothing if RANK is set, as by torchrun, or outside a job step of several tasks. The port is derived from the
    job id, so that jobs on the same node use different ports; MASTER_ADDR and MASTER_PORT are kept if they are set.
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    environment.setdefault("MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"]))
    environment.setdefault("MASTER_PORT", str(_FIRST_PORT + int(environment["SLURM_JOB_ID"]) % _PORTS))


def first_host(hosts: str) -> str:
    """Return the first host of a Slurm host list: node07 of `node[07-09,12],login`."""
    return _FIRST_HOST.sub(r"\1\2\3", hosts)
