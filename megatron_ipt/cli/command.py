"""Shared by all commands: `--config FILE`, `section.field=value`, help from the schema, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from megatron_ipt.attempts import note_exit, note_node, note_start
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.settings import Setting, Settings, sections_of
from megatron_ipt.errors import RankLost, TemporaryFailure, UserError
from megatron_ipt.stages import STAGES
from megatron_ipt.system_errors import explain

C = TypeVar("C")
T = TypeVar("T")
_LEAVING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_MAIN_RANK_SECONDS = 20.0


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Run `command` and return its exit code.

    0: done; 2: the user's mistake, every problem is printed; 75: the same command can resume later; 130: Ctrl-C. After
    an internal error the traceback goes through, and Python exits with 1.
    """
    with _leaving_on_signals():
        try:
            command(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt as interrupt:
            code = _leave(interrupt)
        except Exception as error:
            failure = explain(error)
            if failure is None:
                note_exit(1)
                raise
            _print_failure(failure)
            code = failure.exit_code
        else:
            code = 0
        note_exit(code)
        return code


def _leave(interrupt: KeyboardInterrupt) -> int:
    is_signal = isinstance(interrupt, _LeavingSignal)
    if is_main_rank():
        print(f"\n{interrupt if is_signal else 'interrupted'}: run the same command again to resume", file=sys.stderr)
    return os.EX_TEMPFAIL if is_signal else 128 + signal.SIGINT


def _print_failure(failure: UserError | TemporaryFailure) -> None:
    """Print a failure that all ranks have on rank 0 alone, and briefly on others where it may be theirs alone."""
    if isinstance(failure, RankLost):
        print(f"rank {os.environ.get('RANK', '0')}: {failure}", file=sys.stderr)
    elif isinstance(failure, TemporaryFailure):
        if is_main_rank():
            print(failure, file=sys.stderr)
        elif failure.__cause__ is not None:  # not a signal, which all ranks are sent
            print(f"rank {os.environ['RANK']}: {failure}", file=sys.stderr)
    elif is_main_rank():
        count = len(failure.problems)
        heading = f"{count} errors" if count > 1 else "error"
        print(f"{heading}\n" + textwrap.indent(str(failure), "  "), file=sys.stderr)
    else:
        _wait_for_main_rank()
        first = failure.problems[0]
        print(f"rank {os.environ['RANK']}: {first.field}: {first.reason}; {first.remedy}", file=sys.stderr)


def _wait_for_main_rank() -> None:
    """Under torchrun, give rank 0 the time to print the error that this rank has too.

    torchrun terminates all ranks when the first one ends, and rank 0 may still be starting then. It ends this wait too.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_MAIN_RANK_SECONDS)


class _LeavingSignal(KeyboardInterrupt):
    """A signal, named, that asks this process to end: a job's time limit, its preemption, or a user's `kill`."""


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGUSR1 end a command as Ctrl-C does: what it started is stopped, and it says so."""
    process = os.getpid()

    def leave(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a forked child, which inherits this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for one in _LEAVING_SIGNALS:
            signal.signal(one, signal.SIG_IGN)  # Slurm repeats them, and the cleanup must not be interrupted
        raise _LeavingSignal(signal.Signals(number).name)

    former = {number: signal.signal(number, leave) for number in _LEAVING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) is leave:  # a training run keeps its own, and a leaving process ignores them
                signal.signal(number, handler)


def is_main_rank() -> bool:
    """Whether this process is rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Outcome:
    """The output of a finished stage: `show` prints it for people; `values` is the JSON for programs (`--json`)."""

    show: Callable[[], None]
    values: Mapping[str, Any]


def run_stage(
    stage: str,
    run: Callable[[Any], Outcome],
    arguments: Sequence[str] | None,
    description: str | None,
    translate: Callable[[Sequence[str]], list[str]] = list,
    dry_run: Callable[[Any], Outcome] | None = None,
) -> int:
    """Run a stage of the registry from the command line and return its exit code.

    Args:
        run: is given the configuration.
        translate: turns flags of the stage's own into `--config FILE` and overrides.
        dry_run: what `--dry-run` does instead; without it there is no such flag.
    """

    def command(given: Sequence[str]) -> None:
        spec = STAGES[stage]
        schema = spec.load_schema()
        parser = config_parser(schema, program=f"megatron-ipt {stage}", description=description)
        parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
        if dry_run is not None:
            parser.add_argument("--dry-run", action="store_true", help="check and describe what would be done, no more")
        parsed = parser.parse_args(translate(given))
        config = load_config(schema, parsed.config, parsed.overrides)
        act = dry_run if dry_run is not None and parsed.dry_run else partial(run_in_place, stage, run)
        outcome = act(config)
        if not is_main_rank():
            return
        if parsed.json:
            print(json.dumps({"stage": stage, **outcome.values}, ensure_ascii=False))
        else:
            outcome.show()

    return run_command(command, arguments)


def run_in_place(stage: str, run: Callable[[C], T], config: C) -> T:
    """Run a stage of the registry where its settings put the results.

    What is finished there is noted for the job that runs it, and the node. Errors of the system that name no file name
    that place.
    """
    spec = STAGES[stage]
    results = Path(getattr(config, spec.output))
    note_node()
    if is_main_rank():
        note_start(results, spec.parts)
    try:
        return run(config)
    except Exception as error:
        failure = explain(error, place=results)
        if failure is None or failure is error:
            raise
        raise failure from error


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
