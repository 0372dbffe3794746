"""The plan as a table, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.planning.plan import Estimate, Plan

_GIB = 2**30


def to_json(plan: Plan) -> str:
    """Every layout with its figures; sizes in bytes."""
    values = asdict(plan)
    for one, estimate in zip(values["estimates"], plan.estimates, strict=True):
        one["memory"]["total_bytes"] = estimate.memory.total_bytes
    return json.dumps(values, indent=2)


def print_plan(config: PlanConfig, plan: Plan) -> None:
    """The fastest layouts, and what was assumed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    machine, console = plan.machine, Console()
    console.print(
        f"{plan.parameters:,} parameters, {plan.flops_per_token / 1e9:.2f} GFLOP a token at {config.seq_length} tokens;"
        f" {config.gpus} x {config.gpu}, {machine.usable_bytes / _GIB:.1f} GiB usable of each",
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    rows = [_cells(estimate) for estimate in plan.estimates[: config.shown]]
    for heading in rows[0]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    if len(plan.estimates) > config.shown:
        console.print(f"{len(plan.estimates) - config.shown} more fit (shown=N, or --json)", highlight=False)
    console.print(
        f"GiB a GPU, of the fullest pipeline stage: weights, gradients, optimizer, activations, all. Assumed:"
        f" {machine.mfu:.0%} of {machine.peak_tflops:,.0f} TFLOP/s while a stage is busy; recomputation costs a second"
        " forward pass, tensor ranks cost nothing more. use_distributed_optimizer is on, and with several tensor ranks"
        " sequence_parallel.",
        highlight=False,
    )


def _cells(one: Estimate) -> dict[str, str]:
    layout, memory = one.layout, one.memory
    cells: dict[str, Any] = {
        "TP": layout.tensor_model_parallel_size,
        "PP": layout.pipeline_model_parallel_size,
        "DP": layout.data_parallel_size,
        "micro": layout.micro_batch_size,
        "recompute": "yes" if layout.recompute else "no",
        "wei": _gib(memory.weights_bytes),
        "gra": _gib(memory.gradients_bytes),
        "opt": _gib(memory.optimizer_bytes),
        "act": _gib(memory.activations_bytes),
        "all": _gib(memory.total_bytes),
        "tokens/s": f"{one.tokens_per_second:,.0f}",
    }
    if one.days is not None:
        cells["days"] = f"{one.days:,.1f}"
    if one.cost is not None:
        cells["cost"] = f"{one.cost:,.0f}"
    return {heading: str(cell) for heading, cell in cells.items()}


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.1f}"
