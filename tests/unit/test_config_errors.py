"""Every mistake in a configuration is reported at once, by key, with what the setting takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.config.loading import config_from, load_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.stages import STAGES

MINIMAL: dict[str, Any] = {"run": "run", "data": {"tokenizer": "tokenizer", "blend": [{"prefix": "p"}]}}


def problems_of(*overrides: str, schema: Any = PretrainConfig, given: Any = MINIMAL) -> dict[str, Problem]:
    with pytest.raises(UserError) as caught:
        config_from(schema, given, overrides)
    return {problem.field: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("checkpoint.keep_last=-1", "must be >= 0"),
        ("checkpoint.keep_every=0", "must be >= 1"),
        ("checkpoint.keep_best=-1", "must be >= 0"),
        ("training.exit_interval=0", "must be >= 1"),
        ("training.eval_iters=-1", "must be >= 0"),
        ("training.micro_batch_size=0", "must be >= 1"),
        ("training.seed=-1", "must be >= 0, <= 2,147,483,647"),
        ("model.kv_channels=0", "must be >= 1"),
        ("model.rotary_base=0", "must be > 0"),
        ("model.max_position_embeddings=0", "must be >= 1"),
        ("optimizer.adam_beta2=1.5", "must be >= 0, < 1"),
        ("optimizer.weight_decay=-0.1", "must be >= 0"),
        ("optimizer.clip_grad=.nan", "not a finite number"),
        ("optimizer.lr=.inf", "not a finite number"),
        ("optimizer.lr=-1", "must be >= 0"),
        ("faults.loss_spike_sigmas=-1000", "must be >= 0"),
        ("schedule.lr_decay_iters=0", "must be >= 1"),
        ("profile.first_iteration=0", "must be >= 1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(override: str, reason: str) -> None:
    found = problems_of(override)
    assert {field: problem.reason for field, problem in found.items()} == {override.partition("=")[0]: reason}


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("schedule.lr_decay_style=cosin", "did you mean cosine?"),
        ("precision.attention_backend=flesh", "did you mean flash?"),
        ("profile.tool=vtune", "use one of torch, nsys"),
        ("model.preset=gpt", "use one of instructlm-500m"),
    ],
)
def test_choices_are_listed_or_the_nearest_is_named(override: str, remedy: str) -> None:
    [problem] = problems_of(override).values()
    assert problem.field == override.partition("=")[0]
    assert problem.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model=tiny", "a section, not a value"),
        ("model.num_layers=true", "not a number"),
        ("model.num_layers=2.5", "not an integer"),
        ("optimizer.lr=fast", "not a number"),
        ("parallel.sequence_parallel=3", "neither true nor false"),
        ("data.blend=corpus", "not a list"),
        ("run=[a]", "not a string"),
        ("run={a: b}", "not a string"),
    ],
)
def test_values_of_another_type_are_refused(override: str, reason: str) -> None:
    key = override.partition("=")[0]
    assert problems_of(override)[key].reason == reason


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("model.num_layer", "did you mean model.num_layers?"),
        ("modle.num_layers", "did you mean model?"),
        ("train_iters", "did you mean training.train_iters?"),
        ("epochs", "see --help for all settings"),
        ("optimizer.learning_rate", "see --help for the settings of optimizer"),
    ],
)
def test_an_unknown_key_gets_a_suggestion_only_where_one_is_likely(key: str, remedy: str) -> None:
    [problem] = problems_of(f"{key}=5").values()
    assert (problem.reason, problem.remedy) == ("no setting of that name", remedy)


def test_configuration_of_another_stage_is_refused_section_by_section(tmp_path: Path) -> None:
    file = tmp_path / "pretrain.yaml"
    file.write_text("run: r\nmodel: {preset: tiny-llama}\ndata: {tokenizer: t}\ntraining: {train_iters: 5}\n")
    with pytest.raises(UserError) as caught:
        load_config(EvaluateConfig, file)
    assert {problem.field for problem in caught.value.problems} == {"model", "output", "data", "training"}


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "data:\n  tokenizer: a\n  tokenizer: b\n"])
def test_a_key_given_twice_in_one_file_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="more than once"):
        load_config(PretrainConfig, file)


@pytest.mark.parametrize("text", ["1e3", "1_000", "1000.0"])
def test_integers_are_read_as_people_write_them(text: str) -> None:
    assert config_from(PretrainConfig, MINIMAL, [f"training.train_iters={text}"]).training.train_iters == 1000


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    """A heading whose lines are all commented out."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("run: r\ndata: {tokenizer: t}\ntraining: {train_iters: 7}\n")
    second.write_text("training:\n  # train_iters: 9\n")
    assert load_config(PretrainConfig, [first, second]).training.train_iters == 7


def test_interpolation_reaches_what_presets_and_defaults_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESET", "instructlm-500m")
    given = {
        **MINIMAL,
        "model": {"preset": "${oc.env:PRESET}"},
        "training": {"eval_iters": "${model.num_layers}", "seed": "${training.log_interval}"},
    }
    config = config_from(PretrainConfig, given)
    assert (config.model.hidden_size, config.training.eval_iters, config.training.seed) == (1536, 16, 10)


@pytest.mark.parametrize("value", ["${training.sed}", "${"])
def test_an_interpolation_that_names_nothing_is_an_error(value: str) -> None:
    given = {**MINIMAL, "training": {"seed": value}}
    assert list(problems_of(given=given)) == ["training.seed"]


@pytest.mark.parametrize("command", [name for name, spec in STAGES.items() if spec.settings])
def test_scalars_in_place_of_sections_and_lists_are_errors(command: str) -> None:
    schema = STAGES[command].load_schema()
    given = dict.fromkeys(schema.model_fields, 7.5)
    fields = problems_of(schema=schema, given=given).keys()
    assert fields <= schema.model_fields.keys()
    assert fields
