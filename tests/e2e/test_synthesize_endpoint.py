"""Thousands of texts through a failing endpoint, killed again and again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
TEXTS_PER_PART = 64  # 32 chains of two texts


@pytest.fixture(scope="module")
def stub() -> Iterator[str]:
    """The URL of a server that fails one request in twenty."""
    command = [sys.executable, str(ROOT / "tests" / "stub_endpoint.py"), "--delay-seconds", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        process.kill()


def write_raw(inputs: Path, folder: Path, texts: int) -> list[Path]:
    """Real passages, repeated under new ids, in two files."""
    lines = (inputs / "raw" / "boolq.jsonl").read_text(encoding="utf-8").splitlines()
    files = [folder / "a.jsonl", folder / "b.jsonl"]
    for part, file in enumerate(files):
        with file.open("w", encoding="utf-8") as handle:
            for number in range(part, texts, len(files)):
                row = {"id": f"text-{number}", "text": json.loads(lines[number % len(lines)])["text"]}
                handle.write(json.dumps(row) + "\n")
    return files


def start(inputs: Path, raw: list[Path], output: Path, stub: str) -> subprocess.Popen[bytes]:
    tokenizer = inputs / "tokenizer"
    command = [sys.executable, str(ROOT / "tools" / "synthesize_instructions.py")]
    command += [f"input=[{','.join(map(str, raw))}]", f"output={output}", "texts_per_chain=2"]
    command += ["engine.kind=endpoint", "engine.model=stub", f"engine.tokenizer={tokenizer}"]
    command += [f"engine.endpoint.url={stub}"]
    return subprocess.Popen(command)


def parts_in(output: Path) -> int:
    return sum("part-" in name for _, _, names in os.walk(output / "work") for name in names)


def watch_memory(process: subprocess.Popen[bytes], output: Path, parts: int) -> list[tuple[float, int]]:
    """The share of `parts` written and bytes of memory, sampled until all parts are there."""
    memory: list[tuple[float, int]] = []
    while process.poll() is None and (written := parts_in(output)) < parts:
        memory.append((written / parts, psutil.Process(process.pid).memory_info().rss))
        time.sleep(0.2)
    assert process.wait() == 0
    return memory


def kill_after(process: subprocess.Popen[bytes], output: Path, parts: int) -> None:
    deadline_seconds = time.monotonic() + 300
    while parts_in(output) < parts and process.poll() is None and time.monotonic() < deadline_seconds:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("texts", "kills"), [(960, 2), pytest.param(10_000, 5, marks=pytest.mark.full)])
def test_killed_runs_write_the_corpus_of_an_undisturbed_one(
    texts: int, kills: int, quickstart_inputs: Path, stub: str, tmp_path: Path
) -> None:
    raw, parts = write_raw(quickstart_inputs, tmp_path, texts), texts // TEXTS_PER_PART
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    memory = watch_memory(start(quickstart_inputs, raw, undisturbed, stub), undisturbed, parts)
    counts = json.loads((undisturbed / "manifest.json").read_text())["counts"]
    assert counts["texts"] == counts["augmented_texts"] == texts
    assert counts["texts_without_pairs"] < texts * 0.03
    assert counts["pairs"] > texts * 1.8
    early, late = ([size for share, size in memory if low < share <= high] for low, high in ((0.2, 0.5), (0.5, 1)))
    assert max(late) < 1.1 * max(early)

    for kill in range(1, kills + 1):
        kill_after(start(quickstart_inputs, raw, killed, stub), killed, parts * kill // (kills + 1))
    assert start(quickstart_inputs, raw, killed, stub).wait() == 0
    for file in undisturbed.iterdir():
        if file.stem != "timing":
            assert (killed / file.name).read_bytes() == file.read_bytes(), file.name
    assert {file.name for file in killed.iterdir()} == {file.name for file in undisturbed.iterdir()}
