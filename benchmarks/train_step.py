"""Compare a training step on a CPU with that of a plain PyTorch loop with transformers' Mistral.

    python benchmarks/train_step.py [--repeats 5]

Both train the same model shape in fp32 with AdamW, gradient clipping and the same batch size, alternately and in
separate processes. Ours is the complete command, including data loading, checks of every step and reports; the plain
loop has its tokens in memory. The first few steps are excluded.
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
from pathlib import Path
from typing import Any

OURS, PLAIN = NAMES = ("megatron_ipt", "plain PyTorch loop")
ROOT = Path(__file__).resolve().parents[1]
WARMUP_STEPS = 3
SHAPE = {
    "num_layers": 8,
    "hidden_size": 512,
    "ffn_hidden_size": 1408,
    "num_attention_heads": 8,
    "num_query_groups": 8,
    "vocab_size": 8192,
    "max_position_embeddings": 512,
}


def main() -> None:
    """Print a Markdown table, the ratio of step times, and the share of time spent waiting for data."""
    options = parse_options()
    if options.plain_loop:
        print(json.dumps({"seconds": plain_loop(options)}))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        prepare_data(Path(scratch), SHAPE["vocab_size"])
        for turn in range(options.repeats):
            runs[OURS].append(ours(Path(scratch), options, turn))
            runs[PLAIN].append(plain(options))
            print({name: round(runs[name][-1]["seconds"], 3) for name in NAMES}, file=sys.stderr)
    seconds = {name: statistics.median(run["seconds"] for run in runs[name]) for name in NAMES}
    ratios = sorted(a["seconds"] / b["seconds"] for a, b in zip(runs[OURS], runs[PLAIN], strict=True))
    print(
        f"{options.threads} thread(s), {options.batch_size} samples of {options.seq_length} tokens, medians of", end=" "
    )
    print(f"{options.repeats} runs of {options.steps} steps\n\n| loop | step seconds |\n|---|---|")
    for name in NAMES:
        print(f"| {name} | {seconds[name]:.3f} |")
    wait = statistics.median(run["data_wait_share"] for run in runs[OURS])
    print(f"\nratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}; goal 1.15 at most); ", end="")
    print(f"data wait {wait:.2%} of the step (goal under 1%)")


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each loop")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4, help="samples per step, all in one forward pass")
    parser.add_argument("--seq-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain-loop", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare_data(folder: Path, size: int) -> None:
    """Write random tokens as an indexed dataset, and a tokenizer with a vocabulary of `size` tokens."""
    import numpy as np
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from megatron_ipt.corpus.indexed_writer import IndexedWriter

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t1").save_pretrained(str(folder / "tokenizer"))
    generator = np.random.default_rng(1)
    with IndexedWriter(folder / "documents", size) as writer:
        for length in generator.integers(100, 2000, size=200):
            writer.add(generator.integers(0, size, length).astype(np.uint16), np.array([length]))


def ours(folder: Path, options: argparse.Namespace, turn: int) -> dict[str, Any]:
    """Train with our command and return the seconds per step and the share spent waiting for data."""
    from megatron_ipt.observability.metrics import METRICS_NAME, read_metrics

    run = folder / f"run_{turn}"
    config = {
        "run": str(run),
        "model": SHAPE,
        "data": {
            "tokenizer": str(folder / "tokenizer"),
            "blend": [{"prefix": str(folder / "documents")}],
            "seq_length": options.seq_length,
            "split": "1",
        },
        "precision": {"bf16": False},
        "training": {
            "train_iters": WARMUP_STEPS + options.steps,
            "micro_batch_size": options.batch_size,
            "global_batch_size": options.batch_size,
            "log_interval": 1,
            "eval_iters": 0,
        },
        "checkpoint": {"save_interval": 1000},
        "tracking": {"tensorboard": False},
    }
    file = folder / "config.json"  # JSON is YAML
    file.write_text(json.dumps(config), encoding="utf-8")
    execute([str(ROOT / "tools" / "pretrain_gpt.py"), "--config", str(file)], options)
    rows = [row for row in read_metrics(run / METRICS_NAME) if "step_seconds" in row][WARMUP_STEPS:]
    assert len(rows) == options.steps
    return {
        "seconds": statistics.median(row["step_seconds"] for row in rows),
        "data_wait_share": statistics.median(row["data_wait_share"] for row in rows),
    }


def plain(options: argparse.Namespace) -> dict[str, Any]:
    """Run the plain loop in a separate process and return its seconds per step."""
    output = execute([__file__, *sys.argv[1:], "--plain-loop"], options)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def execute(command: list[str], options: argparse.Namespace) -> str:
    """Run a Python script with the given number of threads and return its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def plain_loop(options: argparse.Namespace) -> float:
    """Train with a straightforward loop and return the median seconds per step."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(1)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=SHAPE["vocab_size"],
            hidden_size=SHAPE["hidden_size"],
            intermediate_size=SHAPE["ffn_hidden_size"],
            num_hidden_layers=SHAPE["num_layers"],
            num_attention_heads=SHAPE["num_attention_heads"],
            num_key_value_heads=SHAPE["num_query_groups"],
            max_position_embeddings=SHAPE["max_position_embeddings"],
            sliding_window=None,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    seconds = []
    for _ in range(WARMUP_STEPS + options.steps):
        tokens = torch.randint(0, SHAPE["vocab_size"], (options.batch_size, options.seq_length))
        started = time.monotonic()
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds[WARMUP_STEPS:])


if __name__ == "__main__":
    main()
