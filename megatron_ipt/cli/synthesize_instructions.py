"""Let an instruction synthesizer write instruction-response pairs about raw texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from megatron_ipt.cli.command import parse_config, run_command
from megatron_ipt.config.synthesis import SynthesizeConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of tools/synthesize_instructions.py and of `megatron-ipt synthesize`."""
    return run_command(_synthesize, arguments)


def _synthesize(arguments: Sequence[str]) -> None:
    config = parse_config(SynthesizeConfig, arguments, program="synthesize_instructions.py", description=__doc__)
    from megatron_ipt.synthesis.pipeline import synthesize

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("megatron_ipt").setLevel(logging.INFO)
    counts = synthesize(config)
    if isinstance(counts, int):
        print(f"{config.output}: handed to Slurm; its last job is {counts}")
        return
    refused = f"; the server refused {counts['texts_refused']}" if counts["texts_refused"] else ""
    print(
        f"{config.output}: {counts['documents']} documents of {counts['texts']} texts, {counts['pairs']} pairs about "
        f"{counts['augmented_texts'] - counts['texts_without_pairs']} of {counts['augmented_texts']} augmented texts"
        f"{refused}"
    )
