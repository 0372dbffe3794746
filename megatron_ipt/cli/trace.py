"""Trace a result back to the raw text it was made from, through the manifests of the stages that produced it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ipt.cli.command import run_command
from megatron_ipt.corpus.lineage import STARTED_FROM, LineageStep, find_manifests, result_path, trace_lineage
from megatron_ipt.corpus.manifest import FileRecord, record_file
from megatron_ipt.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt trace` and return its exit code."""
    return run_command(_trace, arguments)


def _trace(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="megatron-ipt trace", description=__doc__)
    parser.add_argument(
        "result", type=Path, help="output folder of a stage (scores, model, run, corpus), or the prefix of a dataset"
    )
    parser.add_argument("--json", action="store_true", help="print the stages as JSON, with full hashes and all counts")
    parsed = parser.parse_intermixed_args(arguments)
    found = find_manifests(parsed.result)
    if not found:
        reason = "there is no manifest, which every stage writes with its results"
        raise UserError(
            "result", parsed.result, reason, "give the output folder of a stage, or the prefix of a dataset"
        )
    traces = [trace_lineage(file.parent, manifest, file.name) for file, manifest in found]
    if parsed.json:
        steps = {step.manifest_file: step for trace in traces for step in trace}
        print(json.dumps([_as_json(step) for step in steps.values()], indent=2, ensure_ascii=False))
    else:
        _print_trees(traces)


def _print_trees(traces: Sequence[Sequence[LineageStep]]) -> None:
    from megatron_ipt.observability.console import output_console

    console = output_console()
    for steps in traces:
        console.print(_tree(steps))


def _tree(steps: Sequence[LineageStep]) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    labels = [_label(step) for step in steps]
    tree = Tree(labels[0])
    for number, (step, label) in enumerate(zip(steps, labels, strict=True)):
        branch = tree.add(label) if number else tree
        for record in step.sources:
            state = _state(step.folder, record)
            style = "" if state == "unchanged" else "red"
            branch.add(Text.assemble(f"{record.path}  sha256 {record.sha256[:12]}  ", (state, style)))
    return tree


def _label(step: LineageStep) -> Text:
    from rich.text import Text

    counts = ", ".join(f"{key} {value}" for key, value in step.manifest.counts.items() if isinstance(value, int))
    start = f"  new stage of training from {step.started_from}" if step.started_from else ""
    return Text.assemble((step.manifest.stage, "bold"), f" {step.result}", f"  ({counts})" if counts else "", start)


def _as_json(step: LineageStep) -> dict[str, Any]:
    """Convert a stage to JSON values; the paths of its sources are relative to its folder."""
    return {
        "stage": step.manifest.stage,
        "result": str(step.result),
        "folder": str(step.folder),
        "status": step.manifest.status,
        **({STARTED_FROM: step.started_from} if step.started_from else {}),
        "made_from": [str(result_path(file)) for file in step.parents],
        "sources": [{**vars(record), "state": _state(step.folder, record)} for record in step.sources],
        "counts": step.manifest.counts,
        "versions": step.manifest.versions,
    }


def _state(folder: Path, record: FileRecord) -> str:
    file = folder / record.path
    if not file.is_file():
        return "missing"
    return "unchanged" if record_file(file, folder).sha256 == record.sha256 else "changed since"
