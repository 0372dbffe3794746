"""The synthesis command with vLLM in its process: killed, gone on with, nothing lost, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TEXTS = 40  # more than a part, which is what a killed run keeps


def test_killed_run_leaves_no_process_and_goes_on(
    quickstart_inputs: Path, model: Path, texts: list[str], tmp_path: Path
) -> None:
    raw, output = tmp_path / "raw.jsonl", tmp_path / "corpus"
    rows = [{"id": f"text-{number}", "text": text} for number, text in enumerate(texts[:TEXTS])]
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "synthesize_instructions.py"), f"input=[{raw}]", f"output={output}"]
    command += ["engine.kind=vllm", f"engine.model={model}", "engine.vllm.enforce_eager=true"]
    command += [f"examples={quickstart_inputs / 'examples.jsonl'}", "engine.max_new_tokens=32"]

    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    first = subprocess.Popen(command, env=environment)
    deadline_seconds = time.monotonic() + 300
    while not list(output.glob("work/00000/part-*.jsonl")) and time.monotonic() < deadline_seconds:
        assert first.poll() is None
        time.sleep(0.05)
    started = psutil.Process(first.pid).children(recursive=True)
    assert started
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = {part: part.read_bytes() for part in output.glob("work/00000/part-*.jsonl")}
    assert kept
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive

    subprocess.run(command, check=True)  # with the engine in its process
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    assert counts["augmented_texts"] == TEXTS
    documents = [json.loads(line) for line in (output / "augmented-00000.jsonl").read_text().splitlines()]
    sources = [source for document in documents for source in document["sources"]]
    assert sorted(sources) == sorted(row["id"] for row in rows)
    assert counts["pairs"] > TEXTS / 4
