"""Report the results of train_gpu.py as Markdown: a table, and whether each goal was met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.models.accounting import flops_per_token

GOALS = {"instructlm-500m": 110_000, "instructlm-1.3b": 52_000}
"""Tokens per second on one H200 in bf16."""
FP8_SPEEDUP = {"instructlm-1.3b": 1.15}
CLOSE = 0.01

Results = Mapping[str, Mapping[str, Any]]


def render(found: Results, seq_length: int) -> str:
    """Render `found`, with keys MODEL_FORMAT_ours, MODEL_FORMAT_peer (Megatron-LM) and MODEL_resume."""
    measured = {name: result for name, result in found.items() if "losses" in result}
    lines = [
        "| run | tokens/s | TFLOP/s | MFU | peak GiB | data wait | final loss |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, result, seq_length) for name, result in measured.items()]
    failed = [
        f"- {name} failed: {result['failed'].strip()[-600:]}" for name, result in found.items() if "failed" in result
    ]
    return "\n".join([*lines, "", *_verdicts(found, measured), *failed]) + "\n"


def _row(name: str, result: Mapping[str, Any], seq_length: int) -> str:
    flops = flops_per_token(ModelConfig(preset=name.split("_")[0]), seq_length)
    loss = list(result["losses"].values())[-1]
    mfu = f"{result['mfu']:.1%}" if "mfu" in result else "-"
    wait = f"{result['data_wait_share']:.2%}" if "data_wait_share" in result else "-"
    speed = result["tokens_per_second"]
    memory = result["peak_memory_gib"]
    return f"| {name} | {speed:,.0f} | {speed * flops / 1e12:.3g} | {mfu} | {memory:.1f} | {wait} | {loss:.4f} |"


def _verdicts(found: Results, measured: Results) -> Iterator[str]:
    for name, result in measured.items():
        model, form, who = name.split("_")
        bf16 = measured.get(f"{model}_bf16_{who}")
        if who == "ours" and form == "bf16" and model in GOALS:
            goal = GOALS[model]
            yield _verdict(
                f"{name}: {result['tokens_per_second']:,.0f} tokens/s, goal {goal:,}",
                result["tokens_per_second"] >= goal,
            )
        if who == "ours" and form != "bf16" and bf16 is not None:
            apart = largest_difference(bf16["losses"], result["losses"])
            yield _verdict(f"{name}: losses of the second half within {apart:.2%} of bf16's, goal 1%", apart <= CLOSE)
            if model in FP8_SPEEDUP:
                ratio = result["tokens_per_second"] / bf16["tokens_per_second"]
                yield _verdict(f"{name}: {ratio:.3f} times bf16's tokens/s, goal 1.15", ratio >= FP8_SPEEDUP[model])
        if who == "ours" and (peer := measured.get(f"{model}_{form}_peer")) is not None:
            ratio = result["tokens_per_second"] / peer["tokens_per_second"]
            yield _verdict(f"{name}: {ratio:.3f} times Megatron-LM's tokens/s, goal 1.0", ratio >= 1.0)
    for name, result in found.items():
        if "same_weights" in result:
            yield _verdict(f"{name}: losses and weights bit for bit", result["same_losses"] and result["same_weights"])


def _verdict(text: str, is_met: bool) -> str:
    return f"- {'met' if is_met else 'MISSED'}: {text}"


def largest_difference(expected: Mapping[str, float], found: Mapping[str, float]) -> float:
    """Return the largest relative difference between losses logged in the second half of the run."""
    steps = list(expected)[len(expected) // 2 :]
    return max(abs(found[step] / expected[step] - 1.0) for step in steps)
