"""The registry of stages and commands. A new stage is its settings, its command module and an entry here.

This module imports only the standard library, so that scripts can read it without the package's dependencies.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_ipt.config.settings import Settings

COMMAND_LINE = (
    sys.executable,
    "-c",
    "from megatron_ipt.parallel.child_processes import end_with_parent; end_with_parent();"
    "from megatron_ipt.cli.entry import main; raise SystemExit(main())",
)
"""The beginning of a command line that runs `megatron-ipt` in a child process, which exits when its parent does."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of the pipeline, or a command about its results.

    Attributes:
        name: the name of the command, and of the stage in manifests.
        module: its module in `megatron_ipt.cli`; stages also have a script of that name in tools/.
        summary: a line for lists of commands.
        settings: the class of its settings as MODULE:CLASS in `megatron_ipt.config`; empty for a command without a YAML
            file.
        title: its heading in a lineage; empty if it writes no manifest.
        config_name: in a configuration folder, CONFIG_NAME.yaml and CONFIG_NAME_*.yaml configure this stage.
        output: the name of the setting that holds its output path.
        parts: globs, relative to the output path, of files that each hold a finished part, from which a restart
            resumes; without them, a restart begins again.
        is_job: whether `slurm/submit_pipeline.sh` submits it; jobs run in the order of the registry.
    """

    name: str
    module: str
    summary: str
    settings: str = ""
    title: str = ""
    config_name: str = ""
    output: str = "output"
    parts: tuple[str, ...] = ()
    is_job: bool = False

    def load_schema(self) -> type[Settings]:
        """Import the class of its settings."""
        module, _, name = self.settings.partition(":")
        schema: type[Settings] = getattr(import_module(f"megatron_ipt.config.{module}"), name)
        return schema


_SPECS = (
    StageSpec(
        "tuning-set",
        "build_tuning_set",
        "questions and answers to the tuning set of a synthesizer",
        "tuning_set:TuningSetConfig",
        "Tuning set built",
        "build_tuning_set",
    ),
    StageSpec(
        "chat-set",
        "build_chat_set",
        "conversations to the dataset for instruction tuning",
        "chat_set:ChatSetConfig",
        "Chat set built",
        "build_chat_set",
    ),
    StageSpec(
        "synthesize",
        "synthesize_instructions",
        "raw text to instruction-augmented corpus",
        "synthesis:SynthesizeConfig",
        "Instruction-response pairs generated about raw text",
        "synthesize",
        parts=("work/[0-9]*/p*-*.jsonl", "work/[0-9]*/*.json"),
        is_job=True,
    ),
    StageSpec(
        "preprocess",
        "preprocess_data",
        "corpus to Megatron's indexed datasets",
        "stages:PreprocessConfig",
        "Text tokenized",
        "preprocess",
        output="output_prefix",
        is_job=True,
    ),
    StageSpec(
        "mix",
        "build_mixture",
        "preprocessed datasets to blends by tokens for the trainer",
        "mixture:MixtureConfig",
        "Datasets blended",
        "mix",
        is_job=True,
    ),
    StageSpec(
        "index",
        "build_index",
        "build the sample indices of a training run in advance, on a CPU machine",
        "pretrain:PretrainConfig",
        output="run",
    ),
    StageSpec(
        "selftest",
        "selftest",
        "check this machine or cluster: packages, network, shared folder, training, resume",
        "selftest:SelftestConfig",
    ),
    StageSpec("plan", "plan", "layouts of a run that fit your GPUs, with memory, days and cost", "plan:PlanConfig"),
    StageSpec(
        "pretrain",
        "pretrain_gpt",
        "train with megatron-core",
        "pretrain:PretrainConfig",
        "Model trained",
        "pretrain",
        output="run",
        parts=("checkpoints/iter_*/checkpoint.json", "checkpoints/.local_iteration_*"),
        is_job=True,
    ),
    StageSpec(
        "convert",
        "convert_checkpoint",
        "checkpoint to Hugging Face folder, or back",
        "stages:ConvertConfig",
        "Checkpoint converted",
        "convert",
        is_job=True,
    ),
    StageSpec(
        "average",
        "average_checkpoints",
        "average the weights of the newest checkpoints of a run",
        "stages:AverageConfig",
        "Checkpoints averaged",
    ),
    StageSpec(
        "evaluate",
        "evaluate_model",
        "score a Hugging Face model with lm-evaluation-harness",
        "evaluation:EvaluateConfig",
        "Model scored",
        "evaluate",
        parts=("work/*.json",),
        is_job=True,
    ),
    StageSpec(
        "score-synthesizer",
        "score_synthesizer",
        "compare synthesizers on held-out questions and texts",
        "scoring:ScoreConfig",
        "Synthesizers compared",
        "score",
    ),
    StageSpec(
        "trend",
        "trend",
        "convert and score the checkpoints of a training run as it trains",
        "evaluation:TrendConfig",
        config_name="trend",
        parts=("iter_*/results.json",),
    ),
    StageSpec("compare", "compare", "compare scored runs: each task against tokens, with paired significance tests"),
    StageSpec("report", "report", "HTML report of a training run: curves, sources, checkpoints, lineage"),
    StageSpec("trace", "trace", "trace a result back to the raw text behind it"),
    StageSpec("schema", "schema", "JSON Schema of the settings of a stage, for editors"),
)
STAGES: dict[str, StageSpec] = {spec.name: spec for spec in _SPECS}


def stage_of_config(file: Path) -> StageSpec | None:
    """Return the stage that a configuration file is for, by its name; None if there is none.

    preprocess_raw.yaml, for example, is for `preprocess`.
    """
    named = (spec for spec in _SPECS if spec.config_name)
    return next((spec for spec in named if f"{file.stem}_".startswith(f"{spec.config_name}_")), None)


def title_of(stage: str) -> str:
    """Return the heading, in a lineage, of the `stage` that a manifest names."""
    if stage == "checkpoint":  # a part of pretrain with its own manifest
        return "Checkpoint saved"
    return STAGES[stage].title if stage in STAGES else stage


if __name__ == "__main__":
    print("\n".join(spec.config_name for spec in _SPECS if spec.is_job))
