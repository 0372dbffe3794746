"""What every command shares: `--config FILE`, `section.field=value`, help from the schema, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ipt.config.loading import load_config
from megatron_ipt.config.settings import Setting, Settings, sections_of
from megatron_ipt.errors import RankLost, TemporaryFailure, UserError
from megatron_ipt.stages import STAGES


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Run `command` and return its exit code.

    0: done; 2: the input is wrong, and every problem is printed; 75: the same command can resume later; 130: Ctrl-C;
    1: it failed.
    """
    try:
        command(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        if not is_main_rank():  # rank 0 prints them all
            print(f"rank {os.environ['RANK']}: {error.problems[0].field}: {error.problems[0].reason}", file=sys.stderr)
            return 2
        count = len(error.problems)
        heading = f"{count} errors" if count > 1 else "error"
        print(f"{heading}\n" + textwrap.indent(str(error), "  "), file=sys.stderr)
        return 2
    except TemporaryFailure as failure:
        if is_main_rank():
            print(failure, file=sys.stderr)
        return os.EX_TEMPFAIL
    except RankLost as lost:
        print(f"rank {os.environ.get('RANK', '0')}: {lost}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to resume", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def is_main_rank() -> bool:
    """Whether this process is rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Outcome:
    """What a stage prints when it has ended: `show` for people, or `values` as JSON for programs (`--json`)."""

    show: Callable[[], None]
    values: Mapping[str, Any]


def run_stage(
    stage: str,
    run: Callable[[Any], Outcome],
    arguments: Sequence[str] | None,
    description: str | None,
    translate: Callable[[Sequence[str]], list[str]] = list,
) -> int:
    """Run a stage of the registry from the command line and return its exit code.

    Args:
        run: is given the configuration.
        translate: turns flags of the stage's own into `--config FILE` and overrides.
    """

    def command(given: Sequence[str]) -> None:
        spec = STAGES[stage]
        schema = spec.load_schema()
        parser = config_parser(schema, program=f"megatron-ipt {stage}", description=description)
        parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
        parsed = parser.parse_args(translate(given))
        outcome = run(load_config(schema, parsed.config, parsed.overrides))
        if not is_main_rank():
            return
        if parsed.json:
            print(json.dumps({"stage": stage, **outcome.values}, ensure_ascii=False))
        else:
            outcome.show()

    return run_command(command, arguments)


def config_parser(schema: type[Settings], *, program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of `--config FILE` and overrides whose help lists every setting of `schema`."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=describe(schema),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", action="append", help="YAML file; repeatable: a later file overrides an earlier one"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="override one setting")
    return parser


def describe(schema: type[Settings]) -> str:
    """Every setting of `schema`, section by section, with its default and what it does."""
    lines = ["settings:"]
    for name, section in sections_of(schema).items():
        if name:
            lines += ["", *textwrap.wrap(f"{name}: {section.help}", 100, initial_indent="  ", subsequent_indent="    ")]
        for key, one in section.settings.items():
            lines.append(f"  {key}{_default(one)}{_values(one)}")
            lines += textwrap.wrap(one.help, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _default(one: Setting) -> str:
    if one.is_required:
        return "  (required)"
    return "" if one.default is None else f" = {one.shown_default}"


def _values(one: Setting) -> str:
    return f"  [{one.values}]" if one.values else ""
