#!/usr/bin/env python
"""Writes docs/reference/: every setting from the configuration classes, every command from its own --help."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_ipt.cli.entry import COMMANDS
from megatron_ipt.config.loading import known_keys
from megatron_ipt.config.mixture import MixtureConfig, ShareConfig
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.pretrain import BlendEntry, PretrainConfig
from megatron_ipt.config.scoring import ScoreConfig, ScoredModelConfig
from megatron_ipt.config.stages import ConvertConfig, EvaluateConfig, PreprocessConfig
from megatron_ipt.config.synthesis import SynthesizeConfig
from megatron_ipt.config.tuning_set import CollectionConfig, TuningSetConfig

SCHEMAS: dict[str, type[Any]] = {
    "tuning-set": TuningSetConfig,
    "synthesize": SynthesizeConfig,
    "preprocess": PreprocessConfig,
    "mix": MixtureConfig,
    "plan": PlanConfig,
    "pretrain": PretrainConfig,
    "convert": ConvertConfig,
    "evaluate": EvaluateConfig,
    "score-synthesizer": ScoreConfig,
}
ENTRIES: dict[type[Any], tuple[str, type[Any]]] = {
    PretrainConfig: ("data.blend", BlendEntry),
    TuningSetConfig: ("collections", CollectionConfig),
    MixtureConfig: ("variants.NAME", ShareConfig),
    ScoreConfig: ("models", ScoredModelConfig),
}
FOLDER = Path(__file__).parent / "reference"


def configuration_page() -> str:
    """Settings of every stage, then the presets."""
    lines = [
        "# Settings",
        "",
        "Generated from the configuration classes. A YAML file holds them by section; on the command line any of them",
        "is `section.field=value` after `--config FILE`.",
        "",
    ]
    for stage, schema in SCHEMAS.items():
        lines += [f"## {stage}", "", f"{inspect.getdoc(schema)}.".replace("..", "."), ""]
        lines += [*_table(known_keys(schema)), ""]
        if schema in ENTRIES:
            field, entry = ENTRIES[schema]
            lines += [f"Each entry of `{field}`:", "", *_table(known_keys(entry)), ""]
    return "\n".join([*lines, *_presets()]) + "\n"


def command_line_page() -> str:
    """The help of every command."""
    lines = [
        "# Commands",
        "",
        "`megatron-ipt COMMAND ...` and the scripts in `tools/` are the same programs. Exit codes: 0 done, or already",
        "done; 1 a failure, among them an export with other logits; 2 something for the user to mend, told on one",
        "screen.",
        "",
    ]
    for command, (module, summary) in COMMANDS.items():
        lines += [f"## {command}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
        lines += ["```text", _help_of(module), "```", ""]
    return "\n".join(lines)


def _table(keys: dict[str, dataclasses.Field[Any]]) -> Iterator[str]:
    yield "| setting | default | what it does |"
    yield "|---|---|---|"
    for key, field in keys.items():
        yield f"| `{key}` | {_default(field)} | {_cell(field.metadata['help'])} |"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return "not set" if field.default is None else f"`{field.default}`"
    if field.default_factory is dataclasses.MISSING:
        return "required"
    return f"`{field.default_factory()}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _presets() -> Iterator[str]:
    yield "## Model presets"
    yield ""
    yield "`model.preset` names a row; any `model` setting given beside it wins."
    yield ""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    shown = [name for name in names if len({getattr(model, name) for model in MODEL_PRESETS.values()}) > 1]
    yield f"| setting | {' | '.join(MODEL_PRESETS)} |"
    yield "|---" * (len(MODEL_PRESETS) + 1) + "|"
    for name in shown:
        yield f"| `{name}` | {' | '.join(str(getattr(model, name)) for model in MODEL_PRESETS.values())} |"


def _help_of(module: str) -> str:
    program = f"from megatron_ipt.cli.{module} import main; raise SystemExit(main(['--help']))"
    environment = {**os.environ, "COLUMNS": "110"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(f"{module} --help failed:\n{result.stderr}")
    return result.stdout.rstrip()


def main() -> None:
    """Write both pages."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "configuration.md").write_text(configuration_page(), encoding="utf-8")
    (FOLDER / "command_line.md").write_text(command_line_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
