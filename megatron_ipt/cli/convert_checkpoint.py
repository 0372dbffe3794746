"""Convert a checkpoint to a Hugging Face folder or to Megatron-LM's checkpoint, or back.

  convert_checkpoint.py mcore-to-hf --input RUN --output DIR
  convert_checkpoint.py hf-to-mcore --input DIR --output RUN
  convert_checkpoint.py mcore-to-hf --input RUN --output DIR --push OWNER/NAME
  convert_checkpoint.py mlm-to-mcore --input MEGATRON_LM_DIR --tokenizer DIR --output RUN
  convert_checkpoint.py mcore-to-mlm --input RUN --output MEGATRON_LM_DIR
  convert_checkpoint.py --config FILE field=value ...

Exit codes: 0 converted (now or earlier), 1 the two models give different logits, 2 an error in the settings or the
input, 75 the disk is full or the hub does not respond: run the same command again later.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.stages import ConvertConfig

if TYPE_CHECKING:
    from megatron_ipt.reporting.model_card import ScoreRow

_DIRECTIONS = ("mcore-to-hf", "hf-to-mcore", "mlm-to-mcore", "mcore-to-mlm")
_FLAGS = ("--input", "--output", "--tokenizer", "--push")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt convert` (tools/convert_checkpoint.py) and return its exit code."""
    return run_stage("convert", _convert, arguments, __doc__, as_settings)


def as_settings(arguments: Sequence[str]) -> list[str]:
    """Rewrite the positional direction and the flags `--input`, `--output`, `--tokenizer` and `--push` as overrides.

    They come last, and `--config FILE` first, so that they win over a YAML file.
    """
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

    scores = _read_scores(config)
    check_input(config)  # before torch is imported, which takes seconds
    # torch's allocator uses huge pages: copies are three times as fast
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from megatron_ipt.conversion.convert import convert
    from megatron_ipt.conversion.parity import ParityError

    lines: list[str] = []
    try:
        convert(config, lines.append)
    except ParityError as error:
        print("\n".join(lines))
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    if config.push is not None:
        from megatron_ipt.conversion.hub import push

        lines.append(push(config, scores))
    return Outcome(lambda: print("\n".join(lines)), {"output": config.output, "messages": lines})


def _read_scores(config: ConvertConfig) -> dict[Path, list[ScoreRow]]:
    """Check an upload before the conversion, and return the scores for its model card, by folder of the evaluation."""
    if config.push is None and not config.scores:
        return {}
    from megatron_ipt.conversion.hub import check_push
    from megatron_ipt.evaluation.scored_runs import read_runs
    from megatron_ipt.reporting.model_card import ScoreRow

    check_push(config)
    models = [run.last for folder in config.scores for run in read_runs([folder])]
    return {
        model.folder: [
            ScoreRow(score.task, score.metric, score.num_fewshot, headline.value, headline.stderr, headline.is_share)
            for score, headline in ((score, score.headline) for score in model.scores.values())
        ]
        for model in models
    }
