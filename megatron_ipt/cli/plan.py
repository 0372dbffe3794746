"""List the parallel layouts that fit a model on your GPUs, with memory, speed, days and cost; runs without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.cli.command import config_parser, run_command
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.plan import PlanConfig, plan_of_run
from megatron_ipt.config.pretrain import PretrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt plan` (tools/plan.py) and return its exit code."""
    return run_command(_plan, arguments)


def _plan(arguments: Sequence[str]) -> None:
    parser = config_parser(PlanConfig, program="megatron-ipt plan", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print every layout as JSON")
    parser.add_argument(
        "--pretrain",
        metavar="FILE",
        action="append",
        help="YAML file of a training run: plan for its model, precision, optimizer, samples, batch and steps",
    )
    parsed = parser.parse_intermixed_args(arguments)
    run = plan_of_run(load_config(PretrainConfig, parsed.pretrain)) if parsed.pretrain else {}
    config = load_config(PlanConfig, parsed.config, parsed.overrides, defaults=run)
    from megatron_ipt.planning.plan import make_plan
    from megatron_ipt.planning.table import print_plan, to_json

    plan = make_plan(config)
    if parsed.json:
        print(to_json(plan))
    else:
        print_plan(config, plan)
