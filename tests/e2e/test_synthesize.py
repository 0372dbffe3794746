"""The synthesis with a real language model: valid pairs, killed and resumed, not repeated once finished."""

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
TEXTS_PER_FILE = 4


def command(inputs: Path, raw: list[Path], output: Path) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "tools" / "synthesize_instructions.py"),
        f"input=[{','.join(map(str, raw))}]",
        f"output={output}",
        f"examples={inputs / 'examples.jsonl'}",
        f"engine.model={inputs / 'smollm2'}",
        "engine.max_new_tokens=40",
        f"engine.batch_size={TEXTS_PER_FILE}",
    ]


@pytest.fixture(scope="module")
def raw(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The shortest passages of the first thousand, in two files: a run killed between them has finished a part."""
    with (quickstart_inputs / "raw" / "boolq.jsonl").open(encoding="utf-8") as handle:
        passages = sorted((next(handle) for _ in range(1000)), key=len)
    folder = tmp_path_factory.mktemp("raw")
    files = [folder / "first.jsonl", folder / "second.jsonl"]
    for index, file in enumerate(files):
        lines = passages[index * TEXTS_PER_FILE : (index + 1) * TEXTS_PER_FILE]
        file.write_text("".join(lines), encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def undisturbed(quickstart_inputs: Path, raw: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthesis") / "undisturbed"
    subprocess.run(command(quickstart_inputs, raw, folder), check=True)
    return folder


def test_real_model_writes_pairs(quickstart_inputs: Path, raw: list[Path], undisturbed: Path) -> None:
    counts = json.loads((undisturbed / "manifest.json").read_text())["counts"]
    texts = len(raw) * TEXTS_PER_FILE
    assert counts["augmented_texts"] == texts
    assert counts["texts_without_pairs"] <= 0.7 * texts
    assert counts["pairs"] >= 0.3 * texts
    again = subprocess.run(command(quickstart_inputs, raw, undisturbed), capture_output=True, text=True, check=True)
    assert "nothing to do" in again.stderr


@pytest.mark.full
def test_killed_run_ends_with_the_same_bytes(
    quickstart_inputs: Path, raw: list[Path], undisturbed: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(quickstart_inputs, raw, killed))
    first_part = killed / "work" / "00000" / "part-000000.jsonl"
    deadline_seconds = time.monotonic() + 300
    while not first_part.exists() and time.monotonic() < deadline_seconds:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((killed / "manifest.json").read_text())["status"] == "running"
    subprocess.run(command(quickstart_inputs, raw, killed), check=True)
    names = sorted(file.name for file in undisturbed.iterdir() if file.stem != "timing")
    assert {"augmented-00000.jsonl", "pairs-00001.jsonl", "manifest.json", "report.html"} <= set(names)
    for name in names:
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()
