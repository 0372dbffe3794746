"""The benchmark for a GPU does on a CPU, with a tiny model, all that needs no GPU."""

from __future__ import annotations

import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEER_LINE = (
    " [2026-11-20 10:00:00.000000] iteration {:8d}/     200 | consumed samples:          160 | elapsed time per "
    "iteration (ms): {:.1f} | throughput per GPU (TFLOP/s/GPU): 400.1 | learning rate: 1.500000E-04 | "
    "global batch size:    16 | lm loss: {:.6E} | loss scale: 1.0 | grad norm: 1.234 | "
    "number of skipped iterations:   0 |\n"
)


@pytest.mark.full
@pytest.mark.e2e
def test_tiny_model_on_a_cpu(quickstart_inputs: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    rows = (quickstart_inputs / "raw" / "boolq.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    text.write_text("".join(rows[:300]), encoding="utf-8")
    command = [sys.executable, str(BENCHMARKS / "train_gpu.py"), "--input", str(text)]
    command += ["--tokenizer", str(quickstart_inputs / "tokenizer"), "--scratch", str(tmp_path / "scratch")]
    command += ["--models", "tiny-mistral", "--formats", "bf16", "tensorwise", "--steps", "8", "--seq-length", "64"]
    command += ["--micro-batch-size", "1", "--global-batch-size", "2"]
    first, again = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stdout == again.stdout
    assert "tiny-mistral_bf16_ours ..." in first.stderr
    assert "_ours ..." not in again.stderr
    assert "- met: tiny-mistral_resume: losses and weights bit for bit" in first.stdout
    assert "tiny-mistral_tensorwise_ours failed: " in first.stdout
    assert "Transformer Engine is not installed" in first.stdout
    result = json.loads((tmp_path / "scratch" / "results" / "tiny-mistral_bf16_ours.json").read_text())
    assert len(result["losses"]) == 8
    assert result["tokens_per_second"] > 0
    assert not list((tmp_path / "scratch" / "runs").glob("*/checkpoints"))


def test_megatron_lms_log_is_read() -> None:
    read_log = runpy.run_path(str(BENCHMARKS / "megatron_lm.py"))["read_log"]
    steps = [(10, 900.0, 9.5), (20, 500.0, 8.25), (30, 510.0, 7.125), (40, 490.0, 7.0)]
    memory = "[Rank 0] (after 10 iterations) memory (MB) | allocated: 9000.00 | max allocated: 20480.00 | reserved: 1\n"
    found = read_log(
        "".join([PEER_LINE.format(*steps[0]), memory, *(PEER_LINE.format(*step) for step in steps[1:])]), 1000, 1
    )
    assert found["tokens_per_second"] == pytest.approx(2000)
    assert found["peak_memory_gib"] == 20
    assert found["losses"] == {10: 9.5, 20: 8.25, 30: 7.125, 40: 7.0}


def test_megatron_lm_is_told_the_shape_and_the_recipe() -> None:
    peer_arguments = runpy.run_path(str(BENCHMARKS / "megatron_lm.py"))["peer_arguments"]
    given = {
        "run": "run",
        "model": {"preset": "instructlm-1.3b"},
        "data": {"tokenizer": "t", "blend": [{"prefix": "p"}]},
        "precision": {"fp8": "hybrid", "fp8_recipe": "delayed"},
    }
    arguments = peer_arguments(config_from(PretrainConfig, given), Path("cache"))
    told = dict(itertools.pairwise(arguments))
    expected = {
        "--num-query-groups": "8",
        "--ffn-hidden-size": "8192",
        "--kv-channels": "64",
        "--fp8-recipe": "delayed",
    }
    assert {name: told[name] for name in expected} == expected
    assert {"--untie-embeddings-and-output-weights", "--swiglu", "--bf16"} <= set(arguments)


def test_losses_that_part_are_seen() -> None:
    report = runpy.run_path(str(BENCHMARKS / "train_gpu_report.py"))
    speed = {"tokens_per_second": 60_000.0, "peak_memory_gib": 30.0}
    losses = {"10": 9.0, "20": 8.0, "30": 7.0, "40": 6.0}
    found = {
        "instructlm-1.3b_bf16_ours": {**speed, "losses": losses},
        "instructlm-1.3b_delayed_ours": {
            **speed,
            "tokens_per_second": 72_000.0,
            "losses": {**losses, "30": 7.05, "10": 1},
        },
        "instructlm-1.3b_blockwise_ours": {**speed, "losses": {**losses, "40": 6.1}},
        "instructlm-1.3b_bf16_peer": {**speed, "tokens_per_second": 61_000.0, "losses": losses},
        "instructlm-1.3b_resume": {"same_losses": True, "same_weights": False},
    }
    verdicts = [line for line in report["render"](found, 2048).splitlines() if line.startswith("- ")]
    assert verdicts == [
        "- met: instructlm-1.3b_bf16_ours: 60,000 tokens/s, goal 52,000",
        "- MISSED: instructlm-1.3b_bf16_ours: 0.984 times Megatron-LM's tokens/s, goal 1.0",
        "- met: instructlm-1.3b_delayed_ours: losses of the second half within 0.71% of bf16's, goal 1%",
        "- met: instructlm-1.3b_delayed_ours: 1.200 times bf16's tokens/s, goal 1.15",
        "- MISSED: instructlm-1.3b_blockwise_ours: losses of the second half within 1.67% of bf16's, goal 1%",
        "- MISSED: instructlm-1.3b_blockwise_ours: 1.000 times bf16's tokens/s, goal 1.15",
        "- MISSED: instructlm-1.3b_resume: losses and weights bit for bit",
    ]
