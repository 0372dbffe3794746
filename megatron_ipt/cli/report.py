"""Write an HTML report of a training run: curves, data sources, checkpoints, configuration and lineage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron_ipt.cli.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt report` and return its exit code."""
    return run_command(_report, arguments)


def _report(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="megatron-ipt report", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training run, finished or still running")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write; RUN/report.html if not given")
    parsed = parser.parse_intermixed_args(arguments)
    from megatron_ipt.training.run_report import REPORT_NAME, write_run_report

    file: Path = parsed.output or parsed.run / REPORT_NAME
    write_run_report(parsed.run, file)
    print(f"report: {file}")
