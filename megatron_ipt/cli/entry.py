"""`megatron-ipt COMMAND ...`: the same commands as the scripts in tools/."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "tuning-set": ("build_tuning_set", "questions and answers to the synthesizer's tuning set"),
    "synthesize": ("synthesize_instructions", "raw text to instruction-augmented corpus"),
    "preprocess": ("preprocess_data", "corpus to Megatron's indexed datasets"),
    "mix": ("build_mixture", "preprocessed datasets to blends by tokens, which the trainer reads"),
    "index": ("build_index", "sample indices of a training run, built ahead on a CPU machine"),
    "plan": ("plan", "layouts of a run that fit your GPUs, with memory, days and cost"),
    "pretrain": ("pretrain_gpt", "train with megatron-core"),
    "convert": ("convert_checkpoint", "checkpoint to Hugging Face folder, or back"),
    "evaluate": ("evaluate_model", "score a Hugging Face model with lm-evaluation-harness"),
    "score-synthesizer": ("score_synthesizer", "compare synthesizers on held-out questions and texts"),
    "report": ("report", "a training run on one page: curves, sources, checkpoints, lineage"),
    "trace": ("trace", "follow a result back to the raw text behind it"),
}


def main() -> int:
    """Hand the arguments to the named command."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        print("usage: megatron-ipt COMMAND ...   (COMMAND --help lists its settings)\n")
        for command, (_, summary) in COMMANDS.items():
            print(f"  {command:<18} {summary}")
        return 0 if name in ("-h", "--help") else 2
    module = import_module(f"megatron_ipt.cli.{COMMANDS[name][0]}")
    code: int = module.main(sys.argv[2:])
    return code
