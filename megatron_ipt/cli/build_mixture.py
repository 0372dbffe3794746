"""Mix preprocessed datasets by tokens into blends that the trainer reads directly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.mixture import MixtureConfig

if TYPE_CHECKING:
    from megatron_ipt.mixing.stage import MixtureCounts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt mix` (tools/build_mixture.py) and return its exit code."""
    return run_stage("mix", _mix, arguments, __doc__)


def _mix(config: MixtureConfig) -> Outcome:
    from megatron_ipt.mixing.stage import build_mixtures

    counts = build_mixtures(config)
    return Outcome(partial(_show, config, counts), {"output": config.output, **counts})


def _show(config: MixtureConfig, counts: MixtureCounts) -> None:
    from megatron_ipt.mixing.stage import find_warnings

    print_mixtures(config, counts)
    for warning in find_warnings(config, counts):
        print(f"note: {warning}")
    for name in counts["variants"]:
        print(f"to train on it: tools/pretrain_gpt.py --config RUN.yaml --config {config.output}/blend.{name}.yaml")


def print_mixtures(config: MixtureConfig, counts: MixtureCounts) -> None:
    """Print a table with a row for each dataset of each variant."""
    from rich.table import Table

    from megatron_ipt.observability.console import output_console

    console = output_console()
    title = f"{counts['tokens']:,} tokens each: {counts['train_iters']:,} steps of {config.global_batch_size} samples"
    console.print(title)
    table = Table()
    for heading in ("variant", "dataset"):
        table.add_column(heading)
    for heading in ("available", "tokens read", "share", "epochs", "samples"):
        table.add_column(heading, justify="right")
    for name, allocations in counts["variants"].items():
        for index, (dataset, taken) in enumerate(allocations.items()):
            table.add_row(
                "" if index else name,
                dataset,
                f"{taken['available_tokens']:,}",
                f"{taken['tokens']:,}",
                f"{taken['tokens'] / counts['tokens']:.2%}",
                f"{taken['epochs']:.3f}",
                f"{taken['samples']:,}",
            )
        table.add_section()
    console.print(table)
