"""A run that the first release left half-way is resumed and converted by this one."""

from __future__ import annotations

import tarfile
from pathlib import Path

import conversion_jobs
import jobs
import pytest
import yaml
from pool import WorkerPool
from tiny import losses

pytestmark = pytest.mark.distributed

ARCHIVE = Path(__file__).parent / "fixtures" / "run_of_0_1.tar.xz"
LOSSES = [4.161283850669861, 4.173416376113892, 4.1583263874053955, 4.160065174102783]
"""What the first release printed for the four steps of the run; in the archive it has stopped after the second."""


def test_run_is_resumed_and_converted(pool: WorkerPool, tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    config = yaml.safe_load((tmp_path / "pretrain.yaml").read_text())
    config["run"] = str(tmp_path / "run")
    config["data"] |= {"tokenizer": str(tmp_path / "tokenizer"), "blend": [{"prefix": str(tmp_path / "documents")}]}
    config["faults"]["max_anomalies"] = config["faults"].pop("most_anomalies")
    config["training"]["exit_interval"] = None
    recorded = yaml.safe_load((tmp_path / "run" / "run_config.yaml").read_text())
    assert recorded["faults"]["most_anomalies"] == 3  # under its former name

    export = {"direction": "mcore-to-hf", "input": config["run"], "output": str(tmp_path / "hf")}
    pool.run(1, conversion_jobs.convert, {**export, "tokenizer": config["data"]["tokenizer"]})
    assert (tmp_path / "hf" / "model.safetensors").is_file()
    pool.run(1, jobs.pretrain, config)
    assert losses(config["run"]) == pytest.approx(LOSSES, rel=1e-6)
