"""Compare scored runs: each task and the average, plotted over training tokens, with paired significance tests."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from megatron_ipt.cli.command import run_command
from megatron_ipt.config.settings import DEFAULT_SEED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt compare` and return its exit code."""
    return run_command(_compare, arguments)


def _compare(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="megatron-ipt compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]FOLDER", help="output of evaluate or trend; the first is the baseline"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the page and tables")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of the bootstrap")
    parser.add_argument("--json", action="store_true", help="print the comparison as one JSON object")
    parsed = parser.parse_intermixed_args(arguments)
    from megatron_ipt.evaluation.comparison import compare_runs, write_comparison
    from megatron_ipt.evaluation.scored_runs import read_runs
    from megatron_ipt.evaluation.table import print_comparison

    comparison = compare_runs(read_runs(parsed.runs), parsed.seed)
    files = write_comparison(comparison, parsed.output)
    if parsed.json:
        print(json.dumps({"stage": "compare", "output": str(parsed.output), **asdict(comparison)}))
        return
    print_comparison(comparison)
    for file in files:
        print(file)
