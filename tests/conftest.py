"""Fixtures of all tests: the real inputs of the quick start; and how tests are shared by processes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file in one process under --dist loadgroup, for its fixtures, and tests/distributed for its workers."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder == "distributed" else item.path.stem))


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
