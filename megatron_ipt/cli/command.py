"""Code shared by all commands: `--config FILE`, `section.field=value`, help from the schema, exit codes."""

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

from megatron_ipt.attempts import record_exit, record_node, record_start
from megatron_ipt.cli.closed_pipes import run_without_reader
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.settings import Setting, Settings, sections_of
from megatron_ipt.errors import RankLost, TemporaryFailure, UserError
from megatron_ipt.observability.logs import configure_logging
from megatron_ipt.stages import STAGES
from megatron_ipt.system_errors import explain

C = TypeVar("C")
T = TypeVar("T")
_EXIT_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_MAIN_RANK_SECONDS = 20.0


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Run `command` and return its exit code.

    Args:
        command: called with the arguments.
        arguments: the arguments; those of this process if not given.

    Returns:
        0 on success; 2 for an error of the user, after every problem has been printed; 75 if the same command can
        resume later; 130 after Ctrl-C; 141 after success whose results nobody read.

    Raises:
        Exception: an internal error is not caught: Python prints the traceback and exits with 1.
    """
    return run_without_reader(partial(_run, command, sys.argv[1:] if arguments is None else arguments))


def _run(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    with _exiting_on_signals():
        try:
            command(arguments)
        except KeyboardInterrupt as interrupt:
            code = _report_interrupt(interrupt)
        except Exception as error:
            failure = explain(error)
            if failure is None:
                record_exit(1)
                raise
            _print_failure(failure)
            code = failure.exit_code
        else:
            code = 0
        record_exit(code)
        return code


def _report_interrupt(interrupt: KeyboardInterrupt) -> int:
    is_signal = isinstance(interrupt, _ExitSignal)
    if is_main_rank():
        print(f"\n{interrupt if is_signal else 'interrupted'}: run the same command again to resume", file=sys.stderr)
    return os.EX_TEMPFAIL if is_signal else 128 + signal.SIGINT


def _print_failure(failure: UserError | TemporaryFailure) -> None:
    """Print a failure: in full on rank 0, in one line on another rank that may be the only one with it."""
    if isinstance(failure, RankLost):
        print(f"rank {os.environ.get('RANK', '0')}: {failure}", file=sys.stderr)
    elif isinstance(failure, TemporaryFailure):
        if is_main_rank():
            print(failure, file=sys.stderr)
        elif failure.__cause__ is not None:  # not a signal, which all ranks receive
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
    """Under torchrun, give rank 0 time to print the error that it probably shares with this rank.

    torchrun terminates all ranks as soon as one exits, and rank 0 may still be starting then. Once rank 0 has exited,
    torchrun's SIGTERM ends this wait as well.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_MAIN_RANK_SECONDS)


class _ExitSignal(KeyboardInterrupt):
    """Raised for a signal that asks this process to exit: a job's time limit, its preemption, or a user's `kill`.

    The text of the exception is the name of the signal.
    """


@contextmanager
def _exiting_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 raise an exception, as Ctrl-C does, so that the command cleans up and reports it."""
    process = os.getpid()

    def raise_exit(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a forked child, which inherits this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for other in _EXIT_SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # Slurm repeats them, and the cleanup must not be interrupted
        raise _ExitSignal(signal.Signals(number).name)

    previous = {number: signal.signal(number, raise_exit) for number in _EXIT_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            # not if a training run has installed its own handler, or this process is exiting and ignores the signal
            if signal.getsignal(number) is raise_exit:
                signal.signal(number, handler)


def is_main_rank() -> bool:
    """Return whether this process is rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Outcome:
    """The output of a finished stage.

    Attributes:
        show: prints it as text.
        values: the JSON object that `--json` prints.
    """

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
        stage: the name of the stage in the registry.
        run: does the work; called with the configuration.
        arguments: the arguments of the command; those of this process if None.
        description: the text at the top of `--help`.
        translate: converts the flags of this stage to `--config FILE` and overrides.
        dry_run: called instead of `run` with `--dry-run`; if not given, the stage has no such flag.
    """

    def command(given: Sequence[str]) -> None:
        spec = STAGES[stage]
        schema = spec.load_schema()
        parser = config_parser(schema, program=f"megatron-ipt {stage}", description=description)
        parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
        if dry_run is not None:
            parser.add_argument("--dry-run", action="store_true", help="only check the settings and describe the run")
        parsed = parser.parse_intermixed_args(translate(given))
        config = load_config(schema, parsed.config, parsed.overrides)
        configure_logging(is_main=is_main_rank())
        act = dry_run if dry_run is not None and parsed.dry_run else partial(run_attempt, stage, run)
        outcome = act(config)
        if not is_main_rank():
            return
        if parsed.json:
            print(json.dumps({"stage": stage, **outcome.values}, ensure_ascii=False))
        else:
            outcome.show()

    return run_command(command, arguments)


def run_attempt(stage: str, run: Callable[[C], T], config: C) -> T:
    """Run a stage of the registry, and return what `run` returns.

    The node, and the finished parts that the output folder already holds, are recorded for the Slurm job
    (`megatron_ipt.attempts`).

    Raises:
        UserError, TemporaryFailure: also for errors of the operating system; one that names no file is reported with
            the output folder.
    """
    spec = STAGES[stage]
    results = Path(getattr(config, spec.output))
    record_node()
    if is_main_rank():
        record_start(results, spec.parts)
    try:
        return run(config)
    except Exception as error:
        failure = explain(error, default_path=results)
        if failure is None or failure is error:
            raise
        raise failure from error


def config_parser(schema: type[Settings], *, program: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of `--config FILE` and overrides whose help lists every setting of `schema`."""
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
    """Return the help on every setting of `schema`, by section: its default, its values and its description."""
    lines = ["settings:"]
    for name, section in sections_of(schema).items():
        if name:
            lines += ["", *textwrap.wrap(f"{name}: {section.help}", 100, initial_indent="  ", subsequent_indent="    ")]
        for key, setting in section.settings.items():
            lines.append(f"  {key}{_default(setting)}{_values(setting)}")
            lines += textwrap.wrap(setting.help, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _default(setting: Setting) -> str:
    if setting.is_required:
        return "  (required)"
    return "" if setting.default is None else f" = {setting.shown_default}"


def _values(setting: Setting) -> str:
    return f"  [{setting.values}]" if setting.values else ""
