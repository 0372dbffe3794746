"""The outputs of preprocessing: datasets in a folder shared with other files, and the converted tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from megatron_ipt.config.settings import identity_of
from megatron_ipt.config.stages import PreprocessConfig
from megatron_ipt.corpus.manifest import FileRecord, Stage, dataset_manifest_name
from megatron_ipt.tokenization.checks import HUGGING_FACE_TYPES
from megatron_ipt.tokenization.tokenizer_files import find_tokenizer_files
from megatron_ipt.tokenization.transformers_tokenizer import convert_sentencepiece

_TOKENIZER_FOLDER = "tokenizer"


class DatasetCounts(TypedDict):
    """The counts of one dataset, as its manifest records them; `tokenizer` names the encoder too."""

    documents: int
    tokens: int
    empty_documents: int
    skipped_rows: int
    tokenizer: Mapping[str, object]


def dataset_prefix(config: PreprocessConfig, key: str) -> Path:
    """Return PREFIX_KEY_document, the prefix that the trainer's blend names."""
    return Path(f"{config.output_prefix}_{key}_document")


def skipped_rows_file(config: PreprocessConfig, key: str) -> Path:
    """Return the file that lists the rows missing from the dataset."""
    return Path(f"{dataset_prefix(config, key)}.skipped_rows.jsonl")


class PreprocessOutputs:
    """The datasets of one run, each a stage with its own manifest, and the tokenizer to train with."""

    def __init__(self, config: PreprocessConfig, files: list[Path]) -> None:
        """Hash the inputs, once for all datasets.

        Raises:
            UserError: an input is invalid, or a file that this run did not write would be overwritten.
        """
        self._config = config
        model = Path(config.tokenizer_model)
        identity = identity_of(config)
        inputs: list[Path | FileRecord] = [*files, *_files_of_tokenizer(model)]
        self._datasets: dict[str, Stage] = {}
        for key in config.json_keys:
            prefix = dataset_prefix(config, key)
            self._datasets[key] = Stage(
                "preprocess",
                prefix.parent,
                identity,
                inputs,
                manifest_name=dataset_manifest_name(prefix.name),
                files=_files_of_dataset(config, key),
                has_results=lambda: False,  # an unfinished dataset is not resumed
            )
            inputs = list(self._datasets[key].manifest.inputs)  # hashed once, for the first dataset
        self._tokenizer: Stage | None = None
        if config.tokenizer_type not in HUGGING_FACE_TYPES:
            folder = Path(config.output_prefix).parent / _TOKENIZER_FOLDER
            self._tokenizer = Stage("convert-tokenizer", folder, {"tokenizer_type": config.tokenizer_type}, [model])

    @property
    def is_complete(self) -> bool:
        """Whether all outputs already exist."""
        stages = [*self._datasets.values(), *([self._tokenizer] if self._tokenizer else [])]
        return all(stage.is_complete for stage in stages)

    @property
    def counts(self) -> dict[str, DatasetCounts]:
        """The counts of each finished dataset, by key."""
        return {key: cast(DatasetCounts, stage.counts) for key, stage in self._datasets.items()}

    def start(self) -> Path:
        """Mark the datasets as unfinished, convert the tokenizer if needed, and return the tokenizer folder to load.

        Raises:
            UserError: the sentencepiece model is not supported.
        """
        for stage in self._datasets.values():
            stage.start()
        if self._tokenizer is None:
            return Path(self._config.tokenizer_model)
        if self._tokenizer.is_complete:
            return self._tokenizer.folder
        shutil.rmtree(self._converted, ignore_errors=True)
        convert_sentencepiece(Path(self._config.tokenizer_model), self._converted)
        return self._converted

    def finish(self, counts: Mapping[str, DatasetCounts]) -> None:
        """Move the tokenizer to its final place, and write the manifests."""
        if self._tokenizer is not None and not self._tokenizer.is_complete:
            self._tokenizer.start()
            moved = [file.replace(self._tokenizer.folder / file.name) for file in sorted(self._converted.iterdir())]
            self._tokenizer.finish(moved, {})
            self._converted.rmdir()
        for key, stage in self._datasets.items():
            stage.finish([file for file in _files_of_dataset(self._config, key) if file.is_file()], counts[key])

    def abandon(self) -> None:
        """Remove everything that a failed run wrote, so that the next one is free to use other settings."""
        shutil.rmtree(self._converted, ignore_errors=True)
        for stage in self._datasets.values():
            stage.abandon()

    @property
    def _converted(self) -> Path:
        """The converted tokenizer until the datasets are finished, so that a failed run leaves none behind."""
        prefix = dataset_prefix(self._config, self._config.json_keys[0])
        return prefix.with_name(f".{prefix.name}.tokenizer.tmp")


def _files_of_dataset(config: PreprocessConfig, key: str) -> list[Path]:
    prefix = dataset_prefix(config, key)
    return [Path(f"{prefix}.bin"), Path(f"{prefix}.idx"), skipped_rows_file(config, key)]


def _files_of_tokenizer(model: Path) -> list[Path]:
    return [model] if model.is_file() else find_tokenizer_files(model)
