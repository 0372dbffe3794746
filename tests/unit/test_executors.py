"""Where the phases of a synthesis run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_ipt.config.synthesis import ExecutorConfig
from megatron_ipt.synthesis.executors import Phase, gpus_of, run_phases


@pytest.mark.parametrize(
    ("worker", "gpus_per_task", "visible", "own"),
    [
        (0, 1, None, "0"),
        (3, 1, None, "3"),
        (1, 2, None, "2,3"),
        (1, 2, "4,5,6,7", "6,7"),
        (0, 1, "GPU-a,GPU-b", "GPU-a"),
    ],
)
def test_workers_of_a_machine_have_gpus_of_their_own(
    worker: int, gpus_per_task: int, visible: str | None, own: str
) -> None:
    assert gpus_of(worker, gpus_per_task, visible) == own


def test_each_local_worker_sees_its_gpus(tmp_path: Path) -> None:
    def write(worker: int, _workers: int) -> None:
        (tmp_path / str(worker)).write_text(os.environ["CUDA_VISIBLE_DEVICES"])

    run_phases(ExecutorConfig(workers=3, gpus_per_task=2), [Phase("write", write, 3)], tmp_path / "logs")
    assert [(tmp_path / str(worker)).read_text() for worker in range(3)] == ["0,1", "2,3", "4,5"]
