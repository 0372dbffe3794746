"""Configuration: one YAML, dotted overrides, every problem told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config.checks import find_problems
from megatron_ipt.config.loading import config_from, load_config, save_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError

ROOT = Path(__file__).parents[2]
MINIMAL: dict[str, Any] = {"run": "run", "data": {"tokenizer": "tokenizer", "blend": [{"prefix": "p"}]}}


def problems_of(given: dict[str, Any], *overrides: str) -> dict[str, str]:
    with pytest.raises(UserError) as caught:
        config_from(PretrainConfig, given, overrides)
    return {problem.field: problem.remedy for problem in caught.value.problems}


def test_override_wins_over_file_and_file_over_preset() -> None:
    given = {**MINIMAL, "model": {"preset": "instructlm-500m", "num_layers": 3}}
    config = config_from(PretrainConfig, given, ["model.hidden_size=48", "training.seed=7"])
    assert (config.model.num_layers, config.model.hidden_size, config.training.seed) == (3, 48, 7)
    assert config.model.ffn_hidden_size == 4320


def test_later_file_wins_where_both_speak(tmp_path: Path) -> None:
    first, second = tmp_path / "run.yaml", tmp_path / "blend.yaml"
    first.write_text("run: r\ndata: {tokenizer: t, blend: [{prefix: a}, {prefix: b}], seq_length: 64}\n")
    second.write_text("data: {blend: [{prefix: c, weight: 7}]}\ntraining: {train_iters: 5}\n")
    config = load_config(PretrainConfig, [first, second], ["training.train_iters=6"])
    assert [(entry.prefix, entry.weight) for entry in config.data.blend] == [("c", 7.0)]
    assert (config.run, config.data.seq_length, config.training.train_iters) == ("r", 64, 6)


def test_preset_given_as_override_replaces_the_one_in_the_file() -> None:
    given = {**MINIMAL, "model": {"preset": "instructlm-500m"}}
    assert config_from(PretrainConfig, given, ["model.preset=llama3-8b"]).model.vocab_size == 128256


def test_all_problems_are_told_at_once_with_the_nearest_key() -> None:
    given = {"model": {"num_layer": 3, "hidden_size": "wide", "preset": "instructlm-5m"}, "data": {"tokenizer": "t"}}
    problems = problems_of(given, "training.sed=3", "nonsense")
    assert problems["model.num_layer"] == "did you mean model.num_layers?"
    assert problems["training.sed"] == "did you mean training.seed?"
    assert problems["model.preset"] == "did you mean instructlm-500m?"
    assert {"model.hidden_size", "override", "run"} <= problems.keys()


def test_saved_config_loads_back_the_same(tmp_path: Path) -> None:
    config = config_from(PretrainConfig, {**MINIMAL, "model": {"preset": "instructlm-1.3b"}})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(PretrainConfig, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "world_size", "field"),
    [
        ("parallel.tensor_model_parallel_size=3", 3, "parallel.tensor_model_parallel_size"),
        ("parallel.pipeline_model_parallel_size=3", 3, "parallel.pipeline_model_parallel_size"),
        ("parallel.virtual_pipeline_model_parallel_size=2", 1, "parallel.virtual_pipeline_model_parallel_size"),
        ("parallel.tensor_model_parallel_size=2", 3, "ranks"),
        ("training.global_batch_size=7", 2, "training.global_batch_size"),
        ("data.seq_length=9999", 1, "data.seq_length"),
        ("data.split=most", 1, "data.split"),
        ("schedule.lr_warmup_iters=5000", 1, "schedule.lr_warmup_iters"),
        ("optimizer.min_lr=1", 1, "optimizer.min_lr"),
        ("model.num_query_groups=3", 1, "model.num_query_groups"),
    ],
)
def test_sections_that_contradict_each_other_are_named(override: str, world_size: int, field: str) -> None:
    config = config_from(PretrainConfig, MINIMAL, [override])
    assert field in [problem.field for problem in find_problems(config, world_size)]


def test_sound_configuration_has_no_problems() -> None:
    assert find_problems(config_from(PretrainConfig, MINIMAL), world_size=8) == []


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*/pretrain.yaml")), ids=str)
def test_every_shipped_training_config_is_sound(file: Path) -> None:
    config = load_config(PretrainConfig, file)
    size = config.parallel.tensor_model_parallel_size * config.parallel.pipeline_model_parallel_size
    assert find_problems(config, size) == []
