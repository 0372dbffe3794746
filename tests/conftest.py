"""What every test may ask for: the quick start's real inputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


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
