"""`megatron-ipt COMMAND ...`: the same commands as the scripts in tools/."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module

from megatron_ipt.cli.closed_pipes import run_without_reader
from megatron_ipt.stages import STAGES


def main() -> int:
    """Run the command that the first argument names, and return its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in STAGES:
        return run_without_reader(partial(_list_commands, 0 if name in ("-h", "--help") else 2))
    module = import_module(f"megatron_ipt.cli.{STAGES[name].module}")
    code: int = module.main(sys.argv[2:])
    return code


def _list_commands(code: int) -> int:
    print("usage: megatron-ipt COMMAND ...   (COMMAND --help lists its settings)\n")
    for spec in STAGES.values():
        print(f"  {spec.name:<18} {spec.summary}")
    return code
