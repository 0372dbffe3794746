"""Ten thousand texts through a failing endpoint, killed five times on the way: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
TEXTS = 10_000
PARTS = TEXTS // 64  # of 32 chains of two texts
KILLS = 5


@pytest.fixture(scope="module")
def stub() -> Iterator[str]:
    """The URL of a server that fails one request in twenty."""
    command = [sys.executable, str(ROOT / "tests" / "stub_endpoint.py"), "--delay-seconds", "0.02"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def raw(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real passages, repeated under new ids, in two files."""
    lines = (quickstart_inputs / "raw" / "boolq.jsonl").read_text(encoding="utf-8").splitlines()
    folder = tmp_path_factory.mktemp("raw")
    files = [folder / "a.jsonl", folder / "b.jsonl"]
    for part, file in enumerate(files):
        with file.open("w", encoding="utf-8") as handle:
            for number in range(part, TEXTS, len(files)):
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
    """A Path's own glob would fail where a folder goes away meanwhile."""
    return len(glob(f"{output}/work/*/part-*.jsonl"))  # noqa: PTH207


def watch_memory(process: subprocess.Popen[bytes], output: Path) -> list[tuple[int, int]]:
    """Parts written and bytes of memory, now and again until all parts are there."""
    memory: list[tuple[int, int]] = []
    while process.poll() is None and (parts := parts_in(output)) < PARTS:
        memory.append((parts, psutil.Process(process.pid).memory_info().rss))
        time.sleep(0.2)
    assert process.wait() == 0
    return memory


def test_killed_five_times_the_corpus_is_the_same(
    quickstart_inputs: Path, raw: list[Path], stub: str, tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(quickstart_inputs, raw, undisturbed, stub)
    memory = watch_memory(process, undisturbed)
    counts = json.loads((undisturbed / "manifest.json").read_text())["counts"]
    assert counts["texts"] == counts["augmented_texts"] == TEXTS
    assert counts["texts_without_pairs"] < TEXTS * 0.03
    assert counts["pairs"] > TEXTS * 1.8
    early, late = (
        [size for parts, size in memory if low < parts / PARTS <= high] for low, high in ((0.2, 0.5), (0.5, 1))
    )
    assert max(late) < 1.1 * max(early)

    for kill in range(1, KILLS + 1):
        process = start(quickstart_inputs, raw, killed, stub)
        wanted = PARTS * kill // (KILLS + 1)
        deadline_seconds = time.monotonic() + 300
        while parts_in(killed) < wanted and process.poll() is None and time.monotonic() < deadline_seconds:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(quickstart_inputs, raw, killed, stub).wait() == 0
    for file in undisturbed.iterdir():
        if file.stem != "timing":
            assert (killed / file.name).read_bytes() == file.read_bytes(), file.name
    assert {file.name for file in killed.iterdir()} == {file.name for file in undisturbed.iterdir()}
