"""Files of a Hugging Face folder that travel with the weights: into a checkpoint's run, and out of it again.

Generation settings, README, licence and notices say nothing that a conversion changes. An import keeps them, with
config.json, in RUN/source_files; an export of that run, or of one that was trained from its weights, writes them again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, resolve_checkpoint
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.conversion.hf_files import CONFIG_NAME, GENERATION_NAME, README_NAME, carried_files, read_object
from megatron_ipt.conversion.sources import ExportSource, run_folder
from megatron_ipt.corpus.manifest import read_manifest, record_file
from megatron_ipt.tokenization.tokenizers import TOKENIZER_NAME

_FOLDER_NAME = "source_files"
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Carried:
    """Files and token ids that an export takes over from the model that its weights come from.

    Attributes:
        files: to be copied as they are.
        token_ids: of config.json, where the tokenizer is still the same; one text can have several EOS.
        config: config.json of that model.
    """

    files: list[Path]
    token_ids: dict[str, Any]
    config: Path

    @property
    def inputs(self) -> list[Path]:
        """All files that are read."""
        return [self.config, *self.files]

    @property
    def has_generation_settings(self) -> bool:
        """Whether generation_config.json is among the files."""
        return any(file.name == GENERATION_NAME for file in self.files)


def keep_files(folder: Path, run: Path) -> list[Path]:
    """Copy the files of the Hugging Face `folder` that still hold, and config.json, into `run`; the copies."""
    target = run / _FOLDER_NAME
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that did not finish
    target.mkdir()
    return copy_files([folder / CONFIG_NAME, *carried_files(folder)], target)


def copy_files(files: list[Path], folder: Path) -> list[Path]:
    """Copy `files` into `folder`; the copies."""
    return [Path(shutil.copyfile(file, folder / file.name)) for file in files]


def find_carried(source: ExportSource) -> Carried | None:
    """Find what travels with the weights of `source`; None if they come from no Hugging Face model.

    A README describes a model that has not been trained further. Generation settings name tokens, and hold for the
    tokenizer they were made for.
    """
    run = run_folder(source.checkpoint)
    origin = _origin(run, source.run)
    if origin is None:
        return None
    config, files = origin / _FOLDER_NAME / CONFIG_NAME, carried_files(origin / _FOLDER_NAME)
    token_ids: dict[str, Any] = {}
    if _is_tokenizer_of(origin, source.tokenizer):
        values = read_object(config, "import the model again")
        token_ids = {name: values[name] for name in _TOKEN_IDS if name in values}
    else:
        files = [file for file in files if file.name != GENERATION_NAME]
    if origin != run:
        files = [file for file in files if file.name != README_NAME]
    return Carried(files, token_ids, config)


def _origin(run: Path, config: PretrainConfig) -> Path | None:
    """The import that the weights of `run` come from, by way of the runs that each started from another's."""
    passed = set[Path]()
    while not (run / _FOLDER_NAME / CONFIG_NAME).is_file():
        named, passed = config.checkpoint.pretrained_checkpoint, {*passed, run}
        checkpoint = resolve_checkpoint(Path(named)) if named is not None else None
        if checkpoint is None or run_folder(checkpoint) in passed:
            return None
        run, config = run_folder(checkpoint), load_recorded(PretrainConfig, checkpoint / RUN_CONFIG_NAME)
    return run


def _is_tokenizer_of(origin: Path, tokenizer: Path) -> bool:
    """Whether the import read the tokenizer.json that is in `tokenizer`."""
    manifest, file = read_manifest(origin), tokenizer / TOKENIZER_NAME
    if manifest is None or not file.is_file():
        return False
    read = {record.sha256 for record in manifest.inputs if Path(record.path).name == TOKENIZER_NAME}
    return record_file(file, tokenizer).sha256 in read
