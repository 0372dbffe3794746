"""Follow a result back to the raw text behind it, through the manifests of the stages that made it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron_ipt.cli.command import run_command
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import FileRecord, read_manifest, record_file
from megatron_ipt.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `megatron-ipt trace`."""
    return run_command(_trace, arguments)


def _trace(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="megatron-ipt trace", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder that a stage made: scores, model, run, dataset or corpus")
    folder = parser.parse_args(arguments).folder
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError("folder", folder, "no stage made it: it holds no manifest.json", "name a stage's output folder")
    from rich.console import Console
    from rich.tree import Tree

    tree: Tree | None = None
    for step in trace_lineage(folder, manifest):
        counts = ", ".join(f"{key} {value}" for key, value in step.manifest.counts.items() if isinstance(value, int))
        label = f"[bold]{step.manifest.stage}[/bold] {step.folder}" + (f"  ({counts})" if counts else "")
        branch = tree.add(label) if tree is not None else (tree := Tree(label))
        for record in step.sources:
            branch.add(f"{record.path}  sha256 {record.sha256[:12]}  {_state(step.folder, record)}")
    Console(soft_wrap=True).print(tree)


def _state(folder: Path, record: FileRecord) -> str:
    file = folder / record.path
    if not file.is_file():
        return "[red]missing[/red]"
    return "unchanged" if record_file(file, folder).sha256 == record.sha256 else "[red]changed since[/red]"
