#!/usr/bin/env python
"""Generate docs/reference/: all settings from the configuration classes, all commands from their --help."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from megatron_ipt.config.mixture import MixtureConfig, ShareConfig
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.pretrain import BlendEntry, PretrainConfig
from megatron_ipt.config.scoring import ScoreConfig, ScoredModelConfig
from megatron_ipt.config.settings import Section, Setting, Settings, sections_of
from megatron_ipt.config.tuning_set import CollectionConfig, TuningSetConfig
from megatron_ipt.stages import STAGES

ENTRIES: dict[type[Settings], tuple[str, type[Settings]]] = {
    PretrainConfig: ("data.blend", BlendEntry),
    TuningSetConfig: ("collections", CollectionConfig),
    MixtureConfig: ("variants.NAME.DATASET", ShareConfig),
    ScoreConfig: ("models", ScoredModelConfig),
}
FOLDER = Path(__file__).parent / "reference"


def configuration_page() -> str:
    """Return the page of the settings of every command and the model presets."""
    lines = [
        "# Settings",
        "",
        "Generated from the configuration classes. A YAML file contains the settings by section. On the command line,",
        "each of them can be given as `section.field=value`, after any `--config FILE`.",
        "",
    ]
    commands: dict[type[Settings], list[str]] = {}
    for spec in STAGES.values():
        if spec.settings:
            commands.setdefault(spec.load_schema(), []).append(spec.name)
    for schema, names in commands.items():
        lines += [f"## {', '.join(names)}", ""]
        for name, section in sections_of(schema).items():
            lines += _section(name, section)
        if schema in ENTRIES:
            field, entry = ENTRIES[schema]
            lines += [f"### Each entry of `{field}`", ""]
            lines += [line for section in sections_of(entry).values() for line in _section("", section)]
    return "\n".join([*lines, *_presets()]) + "\n"


def command_line_page() -> str:
    """Return the page with the help text of every command."""
    lines = [
        "# Commands",
        "",
        "`megatron-ipt COMMAND ...` and the scripts in `tools/` are the same programs. Exit codes: 0, finished, now or",
        "in an earlier run; 1, failed, including an exported model whose logits differ; 2, an error in the settings or",
        "the input, reported with its remedy; 75, stopped early: run the same command again to resume.",
        "",
    ]
    for spec in STAGES.values():
        lines += [f"## {spec.name}", "", f"{spec.summary[0].upper()}{spec.summary[1:]}.", ""]
        lines += ["```text", _help_of(spec.module), "```", ""]
    return "\n".join(lines)


def _section(name: str, section: Section) -> Iterator[str]:
    if name:
        yield f"### {name}"
        yield ""
    yield f"{section.help[0].upper()}{section.help[1:].rstrip('.')}."
    yield ""
    if section.settings:
        yield "| setting | default | values | what it does |"
        yield "|---|---|---|---|"
        for key, one in section.settings.items():
            yield f"| `{key}` | {_default(one)} | {one.values} | {_cell(one.help)} |"
        yield ""


def _default(one: Setting) -> str:
    if one.is_required:
        return "required"
    return "not set" if one.default is None else f"`{one.shown_default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _presets() -> Iterator[str]:
    yield "## Model presets"
    yield ""
    yield "`model.preset` names a column. Any other `model` setting overrides the value of the preset."
    yield ""
    models = [ModelConfig(preset=name) for name in MODEL_PRESETS]
    names = [name for name in ModelConfig.model_fields if name != "preset"]
    shown = [name for name in names if len({getattr(model, name) for model in models}) > 1]
    yield f"| setting | {' | '.join(MODEL_PRESETS)} |"
    yield "|---" * (len(MODEL_PRESETS) + 1) + "|"
    for name in shown:
        values = (_default(Setting("", getattr(model, name))) for model in models)
        yield f"| `{name}` | {' | '.join(values)} |"


def _help_of(module: str) -> str:
    program = f"from megatron_ipt.cli.{module} import main; raise SystemExit(main(['--help']))"
    environment = {**os.environ, "COLUMNS": "110"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(f"{module} --help failed:\n{result.stderr}")
    return result.stdout.rstrip()


def main() -> None:
    """Write both pages to docs/reference/."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "configuration.md").write_text(configuration_page(), encoding="utf-8")
    (FOLDER / "command_line.md").write_text(command_line_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
