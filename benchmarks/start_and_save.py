"""Compare start-up, first step and checkpoint save of a 135M model with those of another commit, on a CPU.

    python benchmarks/start_and_save.py --other REVISION [--repeats 5]

The two commits alternate in the same environment; `--other` runs from a temporary worktree. Start-up is the time from
the start of the process to its first step. The save is that of the final checkpoint, which training waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train_step import ROOT, prepare_data

MODEL, VOCAB_SIZE = "smollm2-135m", 49152
PARTS = ("start-up", "first step", "save")
HERE, OTHER = "this commit", "other commit"


def main() -> None:
    """Print a Markdown table of the medians, in seconds, and of the ratios within each turn."""
    options = parse_options()
    runs: dict[str, list[dict[str, float]]] = {HERE: [], OTHER: []}
    with tempfile.TemporaryDirectory() as scratch, work_tree(options.other) as other:
        folder = Path(scratch)
        prepare_data(folder, VOCAB_SIZE)
        trees = {HERE: ROOT, OTHER: other}
        for turn in range(options.repeats + 1):
            for name in sorted(trees, reverse=bool(turn % 2)):  # neither commit is always the first of a turn
                seconds = measure(trees[name], folder, options)
                if turn:  # turn 0 compiles bytecode and fills the caches
                    runs[name].append(seconds)
                    print(turn, name, {part: round(value, 2) for part, value in seconds.items()}, file=sys.stderr)
    print(f"{MODEL}, {options.threads} thread(s), {options.repeats} turns, medians in seconds\n")
    print(f"| part | {HERE} | {options.other} | ratio | ratios within turns |\n|---|---|---|---|---|")
    for part in PARTS:
        here, before = ([run[part] for run in runs[name]] for name in (HERE, OTHER))
        ratios = sorted(a / b for a, b in zip(here, before, strict=True))
        medians = [statistics.median(values) for values in (here, before)]
        print(f"| {part} | {medians[0]:.2f} | {medians[1]:.2f} | {medians[0] / medians[1]:.3f} | ", end="")
        print(f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) |")


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True, metavar="REVISION", help="the commit to compare with")
    parser.add_argument("--repeats", type=int, default=5, help="turns, after one that is not counted")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


@contextmanager
def work_tree(revision: str) -> Iterator[Path]:
    """Check out a commit in a temporary folder, which exists only within the context."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measure(tree: Path, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train two steps with the command in `tree`, and return the duration of each of `PARTS` in seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as run:
        file = folder / "config.json"  # JSON is YAML
        file.write_text(json.dumps(settings(folder, Path(run) / "run")), encoding="utf-8")
        command = [sys.executable, str(tree / "tools" / "pretrain_gpt.py"), "--config", str(file)]
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree),  # found before the installed package
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(options.threads),
        }
        started = time.monotonic()
        stepped = None
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            output = []
            for line in process.stdout:
                output.append(line)
                if stepped is None and "iteration 1/" in line:
                    stepped = time.monotonic()
        if process.returncode or stepped is None:
            raise SystemExit(f"{' '.join(command)} failed:\n{''.join(output)[-3000:]}")
        lines = (Path(run) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    first_step = next(row["step_seconds"] for row in rows if "step_seconds" in row)
    save = next(row["checkpoint_seconds"] for row in rows if "checkpoint_seconds" in row)
    return dict(zip(PARTS, (stepped - started - first_step, first_step, save), strict=True))


def settings(folder: Path, run: Path) -> dict[str, Any]:
    """Return the settings of a run; both commits must support them."""
    return {
        "run": str(run),
        "model": {"preset": MODEL},
        "data": {
            "tokenizer": str(folder / "tokenizer"),
            "blend": [{"prefix": str(folder / "documents")}],
            "seq_length": 256,
            "split": "1",
        },
        "precision": {"bf16": False},
        "training": {
            "train_iters": 2,
            "micro_batch_size": 2,
            "global_batch_size": 2,
            "log_interval": 1,
            "eval_iters": 0,
        },
        "checkpoint": {"save_interval": 1000},
        "tracking": {"tensorboard": False},
    }


if __name__ == "__main__":
    main()
