"""The synthesis with a real language model: valid pairs, killed and gone on with, skipped when finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def command(inputs: Path, raw: Path, output: Path) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "tools" / "synthesize_instructions.py"),
        f"input=[{raw}]",
        f"output={output}",
        f"examples={inputs / 'examples.jsonl'}",
        f"engine.model={inputs / 'smollm2'}",
        "engine.max_new_tokens=40",
    ]


@pytest.fixture(scope="module")
def raw(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The forty shortest passages of the first thousand."""
    with (quickstart_inputs / "raw" / "boolq.jsonl").open(encoding="utf-8") as handle:
        passages = sorted((next(handle) for _ in range(1000)), key=len)[:40]
    file = tmp_path_factory.mktemp("raw") / "raw.jsonl"
    file.write_text("".join(passages), encoding="utf-8")
    return file


def test_real_model_writes_pairs_and_a_killed_run_ends_with_the_same_bytes(
    quickstart_inputs: Path, raw: Path, tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(quickstart_inputs, raw, undisturbed), check=True)
    counts = json.loads((undisturbed / "manifest.json").read_text())["counts"]
    assert counts["augmented_texts"] == 40
    assert counts["texts_without_pairs"] <= 28
    assert counts["pairs"] >= 12

    process = subprocess.Popen(command(quickstart_inputs, raw, killed))
    first_part = killed / "work" / "00000" / "part-000000.jsonl"
    deadline_seconds = time.monotonic() + 300
    while not first_part.exists() and time.monotonic() < deadline_seconds:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((killed / "manifest.json").read_text())["status"] == "running"
    subprocess.run(command(quickstart_inputs, raw, killed), check=True)
    for name in ("augmented-00000.jsonl", "pairs-00000.jsonl", "manifest.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()

    again = subprocess.run(command(quickstart_inputs, raw, killed), capture_output=True, text=True, check=True)
    assert "nothing to do" in again.stderr
