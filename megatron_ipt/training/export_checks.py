"""What would make the export of a run's checkpoints to Hugging Face fail, found before the run is paid for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.model_family import load_family
from megatron_ipt.tokenization.data_manifests import find_foreign_data, read_data_manifests


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


def find_export_problems(config: PretrainConfig) -> Iterator[Problem]:
    """Yield the settings because of which a conversion mcore-to-hf would reject the run's checkpoints."""
    yield from load_family(config.model.family).export_problems(config.model)
    data = read_data_manifests(Path(f"{entry.prefix}.bin") for entry in config.data.blend)
    yield from find_foreign_data("data.tokenizer", Path(config.data.tokenizer), data)
