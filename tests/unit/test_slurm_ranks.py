"""Ranks that srun starts are the ranks torch sees."""

from __future__ import annotations

import pytest

from megatron_ipt.parallel.slurm_ranks import adopt_slurm_ranks, first_host

STEP = {
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
}


def test_a_task_of_a_step_is_a_rank() -> None:
    environment = dict(STEP)
    adopt_slurm_ranks(environment)
    ranks = {name: value for name, value in environment.items() if name not in STEP}
    assert ranks == {
        "RANK": "11",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "22345",
    }


@pytest.mark.parametrize(
    "environment", [{}, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}, {**STEP, "RANK": "0"}, {"SLURM_NTASKS": "16"}]
)
def test_nothing_is_changed_elsewhere(environment: dict[str, str]) -> None:
    before = dict(environment)
    adopt_slurm_ranks(environment)
    assert environment == before


def test_a_chosen_address_stays() -> None:
    environment = {**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    adopt_slurm_ranks(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.1", "29500")


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu03", "gpu03"),
        ("gpu03,gpu04", "gpu03"),
        ("node[07-09,12],login", "node07"),
        ("rack[1-2]-gpu,x", "rack1-gpu"),
        ("a,b[1-2]", "a"),
    ],
)
def test_first_host(hosts: str, first: str) -> None:
    assert first_host(hosts) == first
