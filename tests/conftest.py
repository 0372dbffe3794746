"""Fixtures of all tests: the real inputs of the quick start; and how tests are shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

CHECKOUT = Path(__file__).resolve().parents[1]

# Test processes, their ranks and the commands that they start share the cores: threads would wait for each other, and
# one that waits must not spin. On a CPU nothing is compiled, and without dynamo megatron-core is imported sooner.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class _ByFile(LoadScopeScheduling):
    """Runs a file in one process, for its fixtures, and all of tests/distributed, for its workers."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "distributed" if file.startswith("tests/distributed/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    return _ByFile(config, log)


@pytest.fixture(scope="session")
def quickstart_inputs() -> Path:
    """The folder that examples/quickstart_cpu/prepare_inputs.py fills, shared with `make demo`.

    raw/boolq.jsonl, examples.jsonl, tokenizer/, smollm2/, eval/TASK.SPLIT.jsonl.gz. The script holds a file lock, so
    that parallel test processes wait for the first.
    """
    folder = CHECKOUT / ".cache" / "quickstart"
    script = CHECKOUT / "examples" / "quickstart_cpu" / "prepare_inputs.py"
    subprocess.run([sys.executable, str(script), "--output", str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def sentencepiece_file(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral-7B-v0.1's sentencepiece model, as it stands in its wheel."""
    file = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model.v1"
    (wheel_file,) = (quickstart_inputs / "wheels").glob("mistral_common-*.whl")
    with zipfile.ZipFile(wheel_file) as wheel:
        file.write_bytes(wheel.read("mistral_common/data/tokenizer.model.v1"))
    return file
