"""Find and check the input of a conversion without importing torch, so that a wrong path is reported at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, resolve_checkpoint
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.model_family import load_family
from megatron_ipt.tokenization.tokenizer_files import require_tokenizer_files

CONFIG_NAME = "config.json"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint to export, its run and its tokenizer.

    Attributes:
        dtype_name: number format of the written weights, a key of `DTYPES`.
    """

    checkpoint: Path
    run: PretrainConfig
    tokenizer: Path
    dtype_name: str


def check_input(config: ConvertConfig) -> None:
    """Check that the input of the conversion has the files it needs.

    Raises:
        UserError: some are missing, or the model of the checkpoint cannot be exported.
    """
    if config.direction == "mcore-to-hf":
        require_tokenizer_files(find_export_source(config).tokenizer)
        return
    folder = Path(config.input)
    require_config(folder)
    weight_files(folder)
    require_tokenizer_files(folder)


def find_export_source(config: ConvertConfig) -> ExportSource:
    """Find the checkpoint that `config.input` names, with the configuration of its run.

    Raises:
        UserError: there is no complete one, or its model cannot be exported.
    """
    checkpoint = resolve_checkpoint(Path(config.input))
    if checkpoint is None:
        raise UserError(
            "input",
            config.input,
            "no finished checkpoint there",
            "name a run or one of its iter_* folders; a conversion has to finish and to pass its parity check",
        )
    run = load_recorded(PretrainConfig, checkpoint / RUN_CONFIG_NAME)
    name = config.dtype or ("bfloat16" if run.precision.bf16 else "float32")
    if problems := list(load_family(run.model.family).export_problems(run.model)):
        raise UserError.of(problems)
    return ExportSource(checkpoint, run, Path(config.tokenizer or run.data.tokenizer), name)


def require_config(folder: Path) -> Path:
    """Return the config.json of a Hugging Face model folder.

    Raises:
        UserError: there is none.
    """
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise UserError("input", folder, f"it holds no {CONFIG_NAME}", "name a Hugging Face model folder")
    return file


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold the weights, including the index if there is one.

    Raises:
        UserError: there are none in safetensors format.
    """
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    index = folder / INDEX_NAME
    if not index.is_file():
        raise UserError(
            "input",
            folder,
            f"it holds neither {SINGLE_NAME} nor {INDEX_NAME}",
            "save the model with save_pretrained (safetensors); pickled weights are not read",
        )
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return [index, *(folder / name for name in sorted(names))]
