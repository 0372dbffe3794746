"""Checks, before a run starts, that its checkpoints can be exported to Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.model_family import load_family
from megatron_ipt.tokenization.data_manifests import find_foreign_data, find_unclear_template, read_data_manifests


def check_export(config: PretrainConfig) -> None:
    """Check that a run that exports its checkpoints can do so.

    Raises:
        UserError: with every reason why it cannot.
    """
    if config.checkpoint.export_hf and (problems := list(find_export_problems(config))):
        raise UserError.of(problems)


def describe_export_problems(config: PretrainConfig) -> Iterator[str]:
    """Yield a warning for each reason why the checkpoints of a run could not be exported later.

    Not an error: weights are also used by other means, such as Megatron-LM.
    """
    for problem in find_export_problems(config):
        yield (
            f"warning: checkpoints of this run cannot be exported to Hugging Face: {problem.field} = {problem.value}: "
            f"{problem.reason}; {problem.remedy}"
        )


def describe_tokenizer_problems(config: PretrainConfig) -> Iterator[str]:
    """Yield a warning if transformers would not read the tokenizer beside a model of this family as it is.

    Imports transformers, for the families that are concerned.
    """
    if not load_family(config.model.family).replaces_pre_tokenizer:
        return
    from megatron_ipt.tokenization.tokenizer_export import export_tokenizer
    from megatron_ipt.tokenization.transformers_tokenizer import open_tokenizer

    with TemporaryDirectory() as name:
        (Path(name) / "config.json").write_text(json.dumps({"model_type": config.model.family}), encoding="utf-8")
        try:
            export_tokenizer(open_tokenizer(Path(config.data.tokenizer)), Path(name), adds_bos=False)
        except UserError as error:
            reason, remedy = error.problems[0].reason, error.problems[0].remedy
            yield (
                f"warning: checkpoints of this run cannot be exported to Hugging Face with data.tokenizer = "
                f"{config.data.tokenizer}: {reason}; {remedy}"
            )


def find_export_problems(config: PretrainConfig) -> Iterator[Problem]:
    """Yield the settings because of which a conversion mcore-to-hf would reject the run's checkpoints."""
    yield from load_family(config.model.family).export_problems(config.model)
    data = read_data_manifests(Path(f"{entry.prefix}.bin") for entry in config.data.blend)
    tokenizer = Path(config.data.tokenizer)
    yield from find_foreign_data("data.tokenizer", tokenizer, data)
    yield from find_unclear_template("data.tokenizer", tokenizer, data)
