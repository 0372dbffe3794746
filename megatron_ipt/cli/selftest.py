"""Check the machines, network and file system that runs will use, in one process or under torchrun or srun.

Exit codes: 0 no check failed, 1 a check failed, 2 an error in the settings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from megatron_ipt.cli.command import config_parser, is_main_rank, run_attempt, run_command
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.selftest import SelftestConfig
from megatron_ipt.observability.logs import configure_logging
from megatron_ipt.parallel.slurm_ranks import adopt_slurm_ranks

if TYPE_CHECKING:
    from megatron_ipt.selftest.verdicts import Verdict


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt selftest` (tools/selftest.py) and return its exit code."""
    adopt_slurm_ranks(os.environ)
    return run_command(_selftest, arguments)


def _selftest(arguments: Sequence[str]) -> None:
    parser = config_parser(SelftestConfig, program="megatron-ipt selftest", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the verdicts as one JSON object")
    parsed = parser.parse_intermixed_args(arguments)
    config = load_config(SelftestConfig, parsed.config, parsed.overrides)
    failed = run_attempt("selftest", lambda given: _check(given, as_json=parsed.json), config)
    if failed:
        raise SystemExit(1)


def _check(config: SelftestConfig, *, as_json: bool) -> bool:
    """Make all checks, print the verdicts, and return whether any failed."""
    configure_logging(is_main=False)  # without the progress of the training runs
    from megatron_ipt.selftest.tiny_run import set_training_environment

    set_training_environment()
    from megatron_ipt.selftest.stage import has_failed, run_selftest  # imports torch

    verdicts = run_selftest(config, _discard if as_json else _print)
    failed = has_failed(verdicts)
    if as_json and is_main_rank():
        values = {"stage": "selftest", "passed": not failed, "verdicts": [asdict(verdict) for verdict in verdicts]}
        print(json.dumps(values, ensure_ascii=False))
    return failed


def _print(verdict: Verdict) -> None:
    print(f"{verdict.status:<8} {verdict.check:<24} {verdict.detail}", flush=True)


def _discard(_: Verdict) -> None:
    """Print nothing yet."""
