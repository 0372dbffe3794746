"""Compare preprocessing with Megatron-LM's tools/preprocess_data.py and preprocess_data_fast.py.

    python benchmarks/preprocess.py --input FILE.jsonl --tokenizer FOLDER --peer MEGATRON_LM_CHECKOUT

The commands run alternately on the same file, with EOS after each document. The startup time of each is measured with a
one-row file; MB/s is the size of the text (UTF-8) divided by the time without startup. The outputs must be
byte-identical.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

OURS = "megatron_ipt"
FAST_PEER = "preprocess_data_fast.py"
PEERS = ("preprocess_data.py", FAST_PEER)


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds, and peak resident memory of the command's first process."""

    seconds: float
    peak_megabytes: float


def main() -> None:
    """Print a Markdown table."""
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        whole, one_row = Path(scratch) / "whole.jsonl", Path(scratch) / "one_row.jsonl"
        text_bytes, documents = write_copies(options.input, options.copies, whole)
        with whole.open(encoding="utf-8") as rows:
            one_row.write_text("".join(itertools.islice(rows, 1)), encoding="utf-8")
        names = [OURS, *(name for name in PEERS if (options.peer / "tools" / name).is_file())]
        starts: dict[str, list[Timing]] = {name: [] for name in names}
        runs: dict[str, list[Timing]] = {name: [] for name in names}
        for turn in range(options.repeats):
            for name in names:
                starts[name].append(timed(name, one_row, Path(scratch) / f"{name}_start_{turn}" / "x", options))
                runs[name].append(timed(name, whole, Path(scratch) / f"{name}_{turn}" / "x", options))
        contents = {
            tuple((Path(scratch) / f"{name}_{turn}" / f"x_text_document.{end}").read_bytes() for end in ("bin", "idx"))
            for name in names
            for turn in range(options.repeats)
        }
    print(f"{documents:,} documents, {text_bytes / 1e6:.1f} MB of text, {options.workers} workers, medians of")
    print(f"{options.repeats} runs; outputs {'are byte-identical' if len(contents) == 1 else 'DIFFER'}\n")
    print("| command | startup s | total s | MB/s without startup | peak MB |\n|---|---|---|---|---|")
    speeds = {}
    for name in names:
        start, whole_seconds = (statistics.median(run.seconds for run in each[name]) for each in (starts, runs))
        speeds[name] = text_bytes / 1e6 / max(whole_seconds - start, 1e-3)
        peak = max(run.peak_megabytes for run in runs[name])
        print(f"| {name} | {start:.1f} | {whole_seconds:.1f} | {speeds[name]:.1f} | {peak:,.0f} |")
    print("\n" + ", ".join(f"{speeds[OURS] / speeds[name]:.2f} times the MB/s of {name}" for name in names[1:]))
    raise SystemExit(len(contents) != 1)


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="JSONL with a nonempty field text in every row")
    parser.add_argument("--tokenizer", type=Path, required=True, help="Hugging Face tokenizer folder")
    parser.add_argument("--peer", type=Path, required=True, help="checkout of NVIDIA/Megatron-LM")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that can import the checkout")
    parser.add_argument("--copies", type=int, default=1, help="number of times that the input is repeated")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each command")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--scratch", type=Path, help="folder for temporary outputs")
    return parser.parse_args()


def write_copies(source: Path, copies: int, target: Path) -> tuple[int, int]:
    """Write `source` to `target`, `copies` times; return the bytes of text and the number of documents."""
    rows = source.read_bytes().splitlines(keepends=True)
    with target.open("wb") as out:
        for _ in range(copies):
            out.writelines(rows)
    return copies * sum(len(json.loads(row)["text"].encode()) for row in rows), copies * len(rows)


def timed(name: str, source: Path, prefix: Path, options: argparse.Namespace) -> Timing:
    """Run one command and measure it."""
    prefix.parent.mkdir()
    given = ["--input", str(source), "--output-prefix", str(prefix), "--append-eod"]
    given += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(options.tokenizer.absolute())]
    environment = dict(os.environ)
    if name == OURS:
        tool = Path(__file__).parents[1] / "tools" / "preprocess_data.py"
        command = [sys.executable, str(tool), *given, "--workers", str(options.workers)]
    else:
        environment |= {
            "PYTHONPATH": str(options.peer),
            "RAYON_NUM_THREADS": "1" if name != FAST_PEER else str(options.workers),
        }
        more = ["--use-gigatoken"] if name == FAST_PEER else ["--workers", str(options.workers)]
        command = [options.peer_python, str(options.peer / "tools" / name), *given, *more]
    with tempfile.TemporaryFile("w+") as log:
        began = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=prefix.parent.parent)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read()[-3000:]}")
    return Timing(seconds, usage.ru_maxrss / 1000)


if __name__ == "__main__":
    main()
