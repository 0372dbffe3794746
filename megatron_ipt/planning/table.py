"""Output of the plan as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.planning.plan import Estimate, Plan

_GIB = 2**30


def to_json(plan: Plan) -> str:
    """Return all layouts with their estimates and the overrides that select them as JSON; sizes in bytes."""
    values = asdict(plan)
    for entry, estimate in zip(values["estimates"], plan.estimates, strict=True):
        entry["memory"]["total_bytes"] = estimate.memory.total_bytes
        entry["overrides"] = overrides_of(estimate)
    return json.dumps(values, indent=2)


def print_plan(config: PlanConfig, plan: Plan) -> None:
    """Print the fastest layouts, and the assumptions."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from megatron_ipt.observability.console import output_console

    machine, console = plan.machine, output_console()
    console.print(
        f"{plan.parameters:,} parameters, {plan.flops_per_token / 1e9:.2f} GFLOP per token at {config.seq_length}"
        f" tokens\n"
        f"{config.gpus} x {config.gpu}, {machine.usable_bytes / _GIB:.1f} GiB usable of each\n"
    )
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0))
    rows = [_cells(estimate) for estimate in plan.estimates[: config.max_rows]]
    for heading in [heading for heading in rows[0] if any(row[heading] for row in rows)]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[str(column.header)] for column in table.columns))
    console.print(table)
    if len(plan.estimates) > config.max_rows:
        console.print(f"{len(plan.estimates) - config.max_rows} more fit (max_rows=N, or --json)")
    console.print(
        "weight, grad, optim, activ and all: GiB per GPU of the pipeline stage that needs most. comm: share of the time"
        f" in communication. Assumed: {machine.mfu:.0%} of {machine.peak_tflops:,.0f} TFLOP/s while a GPU computes,"
        f" {machine.link_bytes_per_second / 1e9:,.0f} GB/s within a node and"
        f" {machine.network_bytes_per_second / 1e9:,.0f} GB/s between nodes.",
    )
    host_gib = plan.estimates[0].checkpoint_host_bytes / _GIB
    console.print(f"Host memory of a node while a checkpoint of the first layout is written: {host_gib:,.0f} GiB.")
    console.print("Settings of the first layout:", " ".join(overrides_of(plan.estimates[0])), soft_wrap=True)


def overrides_of(estimate: Estimate) -> list[str]:
    """Return the layout as overrides for a training run."""
    parallel, defaults = estimate.layout.parallel.model_dump(), ParallelConfig().model_dump()
    changed = [f"parallel.{name}={_yaml(value)}" for name, value in parallel.items() if value != defaults[name]]
    return [*changed, f"training.micro_batch_size={estimate.layout.micro_batch_size}"]


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cells(estimate: Estimate) -> dict[str, str]:
    layout, memory = estimate.layout, estimate.memory
    cells: dict[str, object] = {
        "TP": layout.tensor_model_parallel_size,
        "PP": layout.pipeline_model_parallel_size,
        "VP": layout.virtual_pipeline_model_parallel_size or "",
        "CP": layout.context_parallel_size if layout.context_parallel_size > 1 else "",
        "DP": layout.data_parallel_size,
        "micro": layout.micro_batch_size,
        "rec": (layout.recompute_num_layers or "all") if layout.recompute else "no",
        "weight": _gib(memory.weights_bytes),
        "grad": _gib(memory.gradients_bytes),
        "optim": _gib(memory.optimizer_bytes),
        "activ": _gib(memory.activations_bytes),
        "all": _gib(memory.total_bytes),
        "comm": f"{estimate.communication_share:.0%}",
        "tokens/s": f"{estimate.tokens_per_second:,.0f}",
    }
    if estimate.days is not None:
        cells["days"] = f"{estimate.days:,.1f}"
    if estimate.cost is not None:
        cells["cost"] = f"{estimate.cost:,.0f}"
    return {heading: str(cell) for heading, cell in cells.items()}


def _gib(size_bytes: int) -> str:
    gib = size_bytes / _GIB
    return f"{gib:.1f}" if gib >= 1 else f"{gib:.2f}"
