"""Find and check the input of a conversion without importing torch, so that a wrong path is reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.checkpointing.layout import (
    RUN_CONFIG_NAME,
    iteration_folder,
    read_latest,
    resolve_checkpoint,
    saved_iterations,
)
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.foreign import no_checkpoint, no_hf_folder
from megatron_ipt.conversion.hf_files import (
    CONFIG_NAME,
    carried_files,
    check_generation_settings,
    refuse_lfs_pointers,
    weight_files,
)
from megatron_ipt.conversion.megatron_lm.locate import require_megatron_lm
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.models.model_family import load_family
from megatron_ipt.tokenization.tokenizer_files import require_tokenizer_files

DTYPE_COUNT = "dtype"
"""Under this name the manifest of an import records the number format in which an export writes its weights."""
AVERAGE = "average"
"""The stage whose checkpoint is the mean of others."""


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
    source = Path(config.input)
    if config.direction == "mcore-to-hf":
        refuse_lfs_pointers(require_tokenizer_files(find_export_source(config).tokenizer))
    elif config.direction == "mlm-to-mcore":
        refuse_lfs_pointers(require_megatron_lm(source).files)
        if config.tokenizer is not None:
            require_tokenizer_files(Path(config.tokenizer))
    elif config.direction == "mcore-to-mlm":
        if resolve_checkpoint(source) is None:
            raise no_checkpoint(source)
    else:
        import_files(source)


def import_files(folder: Path) -> list[Path]:
    """List what is read of a Hugging Face model folder.

    Raises:
        UserError: it is not such a folder, or not complete.
    """
    config = require_config(folder)
    files = [config, *weight_files(folder), *require_tokenizer_files(folder), *carried_files(folder)]
    refuse_lfs_pointers(files)
    check_generation_settings(folder)
    return files


def find_export_source(config: ConvertConfig) -> ExportSource:
    """Find the checkpoint that `config.input` names, with the configuration of its run.

    Raises:
        UserError: there is no complete one, or its model cannot be exported.
    """
    checkpoint = resolve_checkpoint(Path(config.input))
    if checkpoint is None:
        raise no_checkpoint(Path(config.input))
    run = load_recorded(PretrainConfig, checkpoint / RUN_CONFIG_NAME)
    name = config.dtype or _imported_dtype(checkpoint) or ("bfloat16" if run.precision.bf16 else "float32")
    if problems := list(load_family(run.model.family).export_problems(run.model)):
        raise UserError.of(problems)
    return ExportSource(checkpoint, run, Path(config.tokenizer or run.data.tokenizer), name)


def find_newest_checkpoints(run: Path, count: int) -> list[Path]:
    """The newest `count` finished checkpoints of a training run, newest first.

    Raises:
        UserError: it has fewer.
    """
    latest = read_latest(run)
    found = [iteration for iteration in saved_iterations(run) if latest is None or iteration <= latest]
    if len(found) < count:
        reason = f"it has {len(found)} finished checkpoints" if found else "there is no finished checkpoint"
        remedy = "name a training run, and fewer checkpoints; checkpoint.keep_last and keep_every say which a run keeps"
        raise UserError("last", f"{count} of {run}", reason, remedy)
    return [iteration_folder(run, iteration) for iteration in found[:count]]


def require_config(folder: Path) -> Path:
    """Return the config.json of a Hugging Face model folder.

    Raises:
        UserError: there is none.
    """
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise no_hf_folder(folder)
    return file


def run_folder(checkpoint: Path) -> Path:
    """The run that `checkpoint` is one of."""
    return checkpoint.resolve().parent.parent


def _imported_dtype(checkpoint: Path) -> str | None:
    """The number format of the Hugging Face model that `checkpoint` is an untrained copy of; None if it is none."""
    manifest = read_manifest(run_folder(checkpoint))
    return manifest.counts.get(DTYPE_COUNT) if manifest is not None and manifest.stage == "convert" else None
