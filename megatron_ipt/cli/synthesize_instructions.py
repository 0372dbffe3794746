"""Generate instruction-response pairs about raw texts with an instruction synthesizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.synthesis import SynthesizeConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt synthesize` (tools/synthesize_instructions.py) and return its exit code."""
    return run_stage("synthesize", _synthesize, arguments, __doc__)


def _synthesize(config: SynthesizeConfig) -> Outcome:
    from megatron_ipt.synthesis.pipeline import synthesize

    counts = synthesize(config)
    if isinstance(counts, int):
        submitted = f"{config.output}: submitted to Slurm; the last job is {counts}"
        return Outcome(lambda: print(submitted), {"output": config.output, "status": "submitted", "job": counts})
    return Outcome(partial(_show, config, counts), {"output": config.output, "status": "complete", "counts": counts})


def _show(config: SynthesizeConfig, counts: Mapping[str, Any]) -> None:
    refused = f"; the server rejected {counts['texts_refused']} texts" if counts["texts_refused"] else ""
    print(
        f"{config.output}: {counts['documents']} documents of {counts['texts']} texts, {counts['pairs']} pairs about "
        f"{counts['augmented_texts'] - counts['texts_without_pairs']} of {counts['augmented_texts']} augmented texts"
        f"{refused}"
    )
