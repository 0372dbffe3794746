"""Follow a result back to the raw text behind it, through the manifests of the stages that made it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ipt.cli.command import run_command
from megatron_ipt.corpus.lineage import LineageStep, find_manifests, trace_lineage
from megatron_ipt.corpus.manifest import FileRecord, record_file
from megatron_ipt.errors import UserError

if TYPE_CHECKING:
    from rich.tree import Tree


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `megatron-ipt trace`."""
    return run_command(_trace, arguments)


def _trace(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="megatron-ipt trace", description=__doc__)
    parser.add_argument(
        "result", type=Path, help="folder that a stage made (scores, model, run, corpus), or the prefix of a dataset"
    )
    result = parser.parse_args(arguments).result
    found = find_manifests(result)
    if not found:
        reason = "no stage made it: there is no manifest"
        raise UserError("result", result, reason, "name a stage's output folder, or the prefix of a dataset")
    from rich.console import Console

    console = Console(soft_wrap=True)
    for file, manifest in found:
        console.print(_tree(trace_lineage(file.parent, manifest, file.name)))


def _tree(steps: Sequence[LineageStep]) -> Tree:
    from rich.tree import Tree

    labels = [_label(step) for step in steps]
    tree = Tree(labels[0])
    for number, (step, label) in enumerate(zip(steps, labels, strict=True)):
        branch = tree.add(label) if number else tree
        for record in step.sources:
            branch.add(f"{record.path}  sha256 {record.sha256[:12]}  {_state(step.folder, record)}")
    return tree


def _label(step: LineageStep) -> str:
    counts = ", ".join(f"{key} {value}" for key, value in step.manifest.counts.items() if isinstance(value, int))
    return f"[bold]{step.manifest.stage}[/bold] {step.place}" + (f"  ({counts})" if counts else "")


def _state(folder: Path, record: FileRecord) -> str:
    file = folder / record.path
    if not file.is_file():
        return "[red]missing[/red]"
    return "unchanged" if record_file(file, folder).sha256 == record.sha256 else "[red]changed since[/red]"
