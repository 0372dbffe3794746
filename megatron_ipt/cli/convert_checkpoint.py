"""Convert a checkpoint to a Hugging Face folder (mcore-to-hf), or back (hf-to-mcore).

  convert_checkpoint.py mcore-to-hf --input RUN --output DIR
  convert_checkpoint.py hf-to-mcore --input DIR --output RUN
  convert_checkpoint.py --config FILE field=value ...

Exit codes: 0 done (or already done), 1 the two models give different logits, 2 a mistake in the settings or input,
75 the disk is full: run the same command again when there is space.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.stages import ConvertConfig

_DIRECTIONS = ("mcore-to-hf", "hf-to-mcore")
_FLAGS = ("--input", "--output", "--tokenizer")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of tools/convert_checkpoint.py and of `megatron-ipt convert`."""
    return run_stage("convert", _convert, arguments, __doc__, as_settings)


def as_settings(arguments: Sequence[str]) -> list[str]:
    """The direction and the flags people expect, written as settings behind everything else."""
    rest: list[str] = []
    settings: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if word in _DIRECTIONS:
            settings.append(f"direction={word}")
        elif flag in _FLAGS:
            settings.append(f"{flag[2:]}={value if equals else next(words, '')}")
        elif word == "--config":
            rest = [word, next(words, ""), *rest]
        else:
            rest.append(word)
    return [*rest, *settings]


def _convert(config: ConvertConfig) -> Outcome:
    from megatron_ipt.conversion.sources import check_input

    check_input(config)  # before torch is imported, which takes seconds
    from megatron_ipt.observability.logs import configure_logging

    configure_logging(is_main=True)
    from megatron_ipt.conversion.convert import convert
    from megatron_ipt.conversion.parity import ParityError

    lines: list[str] = []
    try:
        convert(config, lines.append)
    except ParityError as error:
        print("\n".join(lines))
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    return Outcome(lambda: print("\n".join(lines)), {"output": config.output, "messages": lines})
