"""The default that `--help` and the reference show is the value that a configuration has without the setting."""

from __future__ import annotations

import functools
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_ipt.cli import preprocess_data
from megatron_ipt.cli.command import describe
from megatron_ipt.config.loading import config_from
from megatron_ipt.config.stages import PreprocessConfig
from megatron_ipt.stages import STAGES

SCHEMAS = {name: spec.load_schema() for name, spec in STAGES.items() if spec.settings}
MAKE_REFERENCE = Path(__file__).parents[2] / "docs" / "make_reference.py"
ENGINE = {"model": "m"}
REQUIRED: dict[str, dict[str, Any]] = {
    "chat-set": {"input": ["i"], "output": "o", "tokenizer": "t"},
    "tuning-set": {"collections": [{"name": "n", "input": ["i"]}], "output": "o", "tokenizer": "t"},
    "synthesize": {"input": ["i"], "output": "o", "engine": ENGINE},
    "preprocess": {"input": ["i"], "output_prefix": "o", "tokenizer_model": "t"},
    "mix": {"datasets": {"d": "p"}, "variants": {"v": {"d": {"weight": 1}}}, "output": "o", "global_batch_size": 8},
    "selftest": {"output": "o"},
    "plan": {"gpus": 8},
    "pretrain": {"run": "r", "data": {"tokenizer": "t"}},
    "average": {"input": "i", "output": "o"},
    "convert": {"direction": "mcore-to-hf", "input": "i", "output": "o"},
    "evaluate": {"model": "m", "output": "o"},
    "trend": {"run": "r", "output": "o"},
    "score-synthesizer": {"input": ["i"], "output": "o", "models": {"n": {"engine": ENGINE}}},
}
REQUIRED["index"] = REQUIRED["pretrain"]


def value_of(config: Any, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def required_keys(given: dict[str, Any]) -> set[str]:
    """The dotted keys of what has to be given; of the sections, only `engine` and `data` hold such."""
    sections = {"engine", "data"} & given.keys()
    return {*given} - sections | {f"{section}.{key}" for section in sections for key in given[section]}


def shown_in_help(command: str) -> dict[str, str | None]:
    """Each key's default as `--help` prints it, for the command line; None where it prints none."""
    lines = re.findall(
        r"^  ([a-z_][\w.]*)(?: = (.+?)|  (\(required\)))?(?:  \[.+\])?$", describe(SCHEMAS[command]), re.MULTILINE
    )
    return {key: default or required or None for key, default, required in lines}


@functools.cache
def shown_in_reference() -> dict[str, dict[str, str]]:
    """Each key's default as the tables of the reference show it, by command."""
    page: str = runpy.run_path(str(MAKE_REFERENCE))["configuration_page"]()
    shown: dict[str, dict[str, str]] = {}
    for headings, text in re.findall(r"^## (.+?)$(.+?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL):
        own, _, _ = text.partition("### Each entry of")
        rows = re.findall(r"^\| `([\w.]+)` \| (?:`(.+?)`|(\w[\w ]*)) \|", own, re.MULTILINE)
        for heading in headings.split(", "):
            shown[heading] = {key: default or words for key, default, words in rows}
    return shown


@pytest.mark.parametrize("command", SCHEMAS)
def test_defaults_of_the_help_change_nothing_when_they_are_given(command: str) -> None:
    schema, shown = SCHEMAS[command], shown_in_help(command)
    config = config_from(schema, REQUIRED[command])
    overrides = [f"{key}={default}" for key, default in shown.items() if default not in (None, "(required)")]
    assert overrides
    assert config_from(schema, REQUIRED[command], overrides) == config
    assert [key for key, default in shown.items() if default is None and value_of(config, key) is not None] == []
    assert {key for key, default in shown.items() if default == "(required)"} == required_keys(REQUIRED[command])


@pytest.mark.parametrize("command", SCHEMAS)
def test_reference_and_help_show_the_same(command: str) -> None:
    words = {"required": "(required)", "not set": None}
    reference = {key: words.get(default, default) for key, default in shown_in_reference()[command].items()}
    assert reference == shown_in_help(command)


def test_section_shows_what_its_parent_puts_there() -> None:
    """`render.short_modes` is `ModeWeights` with other numbers than that class's own."""
    shown = shown_in_help("synthesize")
    assert (shown["render.modes.classic"], shown["render.short_modes.classic"]) == ("80.0", "95.0")
    assert "short_modes: if a text of the chain has fewer than two pairs" in describe(SCHEMAS["synthesize"])


def test_flags_of_preprocessing_show_the_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        preprocess_data.main(["--help"])
    text = re.sub(r"\n {10,}", " ", capsys.readouterr().out)
    shown = dict(re.findall(r"^  --([a-z-]+).+\((?:default: (.+)|required)\)$", text, re.MULTILINE))
    config = config_from(PreprocessConfig, REQUIRED["preprocess"])
    assert shown.keys() == {name.replace("_", "-") for name in vars(config)}
    for flag, default in shown.items():
        value = value_of(config, flag.replace("-", "_"))
        assert not default or yaml.safe_load(default) == (value[0] if isinstance(value, list) else value), flag


@pytest.mark.parametrize("text", ["24:00:00", "no", "on", "2026-01-31", "010", "1e5", "12:30"])
def test_text_is_not_taken_for_a_number_a_truth_value_or_a_date(text: str) -> None:
    overrides = [f"executor.time={text}", f"gates.languages=[{text}]"]
    config = config_from(SCHEMAS["synthesize"], REQUIRED["synthesize"], overrides)
    assert (config.executor.time, config.gates.languages) == (text, [text])


@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("3", 3.0), ("1_000.5", 1000.5), (".5", 0.5)])
def test_numbers_are_read_as_numbers(text: str, value: float) -> None:
    config = config_from(SCHEMAS["pretrain"], REQUIRED["pretrain"], [f"optimizer.lr={text}"])
    assert config.optimizer.lr == value


@pytest.mark.parametrize("text", ["yes", "on", "true", "True"])
def test_switches_take_the_words_of_yaml(text: str) -> None:
    config = config_from(SCHEMAS["pretrain"], REQUIRED["pretrain"], [f"parallel.sequence_parallel={text}"])
    assert config.parallel.sequence_parallel is True
