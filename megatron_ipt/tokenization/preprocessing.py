"""Preprocessing: text to megatron-core's indexed datasets PREFIX_KEY_document.bin and .idx, each with a manifest.

Every row gives one document per key, in the order of the input; a text without tokens gives a document of length zero,
so that document i is always row i (docs/adr/0009 explains how Megatron-LM differs). The ids are those of the tokenizer
of the exported model (docs/adr/0008): gigatoken encodes, and samples are verified against `tokenizers` throughout.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import orjson
from rich.console import Console

from megatron_ipt.config.stages import PreprocessConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.corpus.rows import BadRow, Row, read_rows
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.system_errors import naming
from megatron_ipt.tokenization.checks import check_settings, check_special_tokens
from megatron_ipt.tokenization.encoders import EncodedTexts, Encoder, ReferenceEncoder, choose_encoder, split_by_text
from megatron_ipt.tokenization.outputs import DatasetCounts, PreprocessOutputs, dataset_prefix, skipped_rows_file
from megatron_ipt.tokenization.progress import PreprocessProgress
from megatron_ipt.tokenization.tokenizers import TokenizerInfo, read_tokenizer
from megatron_ipt.tokenization.transformers_tokenizer import LoadedTokenizer, load_tokenizer

_BATCH_CHARACTERS, _BATCH_ROWS = 8_000_000, 20_000
_FIRST_VERIFIED, _MAX_VERIFIED_CHARACTERS = 256, 100_000  # documents; longer ones would delay the start
_PRINTED_BAD_ROWS = 20


class _EncoderMismatch(Exception):
    """gigatoken and `tokenizers` gave different ids for a row."""


def preprocess(config: PreprocessConfig) -> dict[str, DatasetCounts]:
    """Run the stage, or skip it if it is finished; return the counts of each dataset, by key.

    Raises:
        UserError: invalid settings (all at once), a bad row under `bad_input=fail`, an unsupported tokenizer, a file
            that would be overwritten, or no tokens at all.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    files = check_settings(config)
    outputs = PreprocessOutputs(config, files)
    if outputs.is_complete:
        console.print(f"{config.output_prefix}: already complete for these inputs, nothing to do", soft_wrap=True)
        return outputs.counts
    if config.workers:
        os.environ["RAYON_NUM_THREADS"] = str(config.workers)  # read by gigatoken and tokenizers at their first call
    try:
        counts = _tokenize(config, files, outputs.start(), console)
    except BaseException:
        outputs.abandon()
        raise
    outputs.finish(counts)
    return counts


def _tokenize(
    config: PreprocessConfig, files: Sequence[Path], tokenizer_folder: Path, console: Console
) -> dict[str, DatasetCounts]:
    tokenizer = read_tokenizer(tokenizer_folder)
    loaded = replace(load_tokenizer(tokenizer_folder), bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    run = _Run.prepare(config, files, tokenizer, loaded, console)
    try:
        counts = run.write()
    except _EncoderMismatch as mismatch:
        console.print(f"{mismatch}; starting again with tokenizers only, which is slower", soft_wrap=True)
        run = replace(run, encoder=run.reference)
        counts = run.write()
    return counts


@dataclass(frozen=True)
class _Run:
    """One pass over the input."""

    config: PreprocessConfig
    files: Sequence[Path]
    info: TokenizerInfo
    loaded: LoadedTokenizer
    reference: ReferenceEncoder
    encoder: Encoder
    console: Console

    @classmethod
    def prepare(
        cls,
        config: PreprocessConfig,
        files: Sequence[Path],
        info: TokenizerInfo,
        loaded: LoadedTokenizer,
        console: Console,
    ) -> _Run:
        check_special_tokens(config, loaded)
        reference = ReferenceEncoder(loaded)
        encoder, reason = choose_encoder(loaded, reference, config.workers)
        if reason is not None:
            console.print(f"{reason}: using tokenizers only, which is slower", soft_wrap=True)
        return cls(config, files, info, loaded, reference, encoder, console)

    def write(self) -> dict[str, DatasetCounts]:
        """Write both files of every key, and return their counts, by key."""
        empty: Counter[str] = Counter()
        skipped_files = [skipped_rows_file(self.config, key) for key in self.config.json_keys]
        with ExitStack() as stack:
            skipped = stack.enter_context(_SkippedRows(skipped_files, self.console))
            writers = {
                key: stack.enter_context(IndexedWriter(dataset_prefix(self.config, key), self.loaded.vocab_size))
                for key in self.config.json_keys
            }
            progress = stack.enter_context(PreprocessProgress(self.files, self.config.log_interval, self.console))
            rows = read_rows(self.files, self.config.json_keys, self.config.bad_input, skipped.report)
            for batch, texts, encoded in self._encoded_batches(rows):
                for key, writer in writers.items():
                    self._verify(batch, texts[key], encoded[key], is_first=writer.documents == 0)
                    empty[key] += int((encoded[key].lengths == 0).sum())
                    writer.add(*self._add_special_tokens(encoded[key]))
                size_bytes = sum(len(text.encode()) for values in texts.values() for text in values)
                tokens = sum(part.ids.size for part in encoded.values())
                progress.advance(batch[-1].file, len(batch), size_bytes, tokens)
            _require_tokens(writers)
        self.console.print(f"{progress.rates()} in {progress.elapsed_seconds:,.1f} s", soft_wrap=True)
        return {
            key: {
                "documents": writer.documents,
                "tokens": writer.tokens,
                "empty_documents": empty[key],
                "skipped_rows": skipped.count,
                "tokenizer": {**asdict(self.info), "encoder": self.encoder.name},
            }
            for key, writer in writers.items()
        }

    def _encoded_batches(
        self, rows: Iterator[Row]
    ) -> Iterator[tuple[list[Row], dict[str, list[str]], dict[str, EncodedTexts]]]:
        """Yield batches with their texts and ids, by key; the next batch is read while one is encoded."""

        def encode(texts: dict[str, list[str]]) -> dict[str, EncodedTexts]:
            return {key: self.encoder.encode(values) for key, values in texts.items()}

        pending: tuple[list[Row], dict[str, list[str]], Future[dict[str, EncodedTexts]]] | None = None
        with ThreadPoolExecutor(1) as pool:
            for batch in _batches(rows):
                texts = {key: [row.values[key] for row in batch] for key in self.config.json_keys}
                begun = batch, texts, pool.submit(encode, texts)
                if pending is not None:
                    yield pending[0], pending[1], pending[2].result()
                pending = begun
            if pending is not None:
                yield pending[0], pending[1], pending[2].result()

    def _verify(self, batch: Sequence[Row], texts: Sequence[str], encoded: EncodedTexts, *, is_first: bool) -> None:
        """Compare the first documents of the run, and one of each later batch, with the reference."""
        if self.encoder is self.reference:
            return
        short = [index for index, text in enumerate(texts) if len(text) <= _MAX_VERIFIED_CHARACTERS]
        verified = short[: _FIRST_VERIFIED if is_first else 1]
        if not verified:
            return
        expected = split_by_text(self.reference.encode([texts[index] for index in verified]))
        ends = np.cumsum(encoded.lengths)
        for index, ids in zip(verified, expected, strict=True):
            if not np.array_equal(encoded.ids[ends[index] - encoded.lengths[index] : ends[index]], ids):
                row = batch[index]
                raise _EncoderMismatch(f"gigatoken and tokenizers differ on {row.file}:{row.line}")

    def _add_special_tokens(self, encoded: EncodedTexts) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Return the ids and lengths of the documents with BOS before and EOS after each, as configured."""
        ids, lengths = encoded.ids, encoded.lengths
        bos_id = self.loaded.bos_id if self.config.prepend_bod else None
        eos_id = self.loaded.eos_id if self.config.append_eod else None
        new_lengths = lengths + (bos_id is not None) + (eos_id is not None)
        ends = np.cumsum(new_lengths)
        new_ids = np.empty(int(ends[-1]), np.uint32)
        is_text = np.ones(new_ids.size, bool)
        for positions, token_id in ((ends - new_lengths, bos_id), (ends - 1, eos_id)):
            if token_id is not None:
                new_ids[positions] = token_id
                is_text[positions] = False
        new_ids[is_text] = ids
        return new_ids, new_lengths


class _SkippedRows:
    """Writes the location and reason of each bad row next to each dataset, and the first ones to the console."""

    def __init__(self, files: Sequence[Path], console: Console) -> None:
        self.count = 0
        self._files, self._console = files, console
        self._temporary = files[0].with_name(f".{files[0].name}.tmp")

    def __enter__(self) -> _SkippedRows:
        for file in self._files:
            file.unlink(missing_ok=True)
        self._handle = self._temporary.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with naming(self._files[0]):
                self._handle.close()
            if kind is None and self.count:
                for file in self._files:
                    shutil.copyfile(self._temporary, file)
        finally:
            self._temporary.unlink()

    def report(self, bad: BadRow) -> None:
        """Count and record one bad row."""
        self.count += 1
        self._handle.write(orjson.dumps({"location": bad.location, "reason": bad.reason}) + b"\n")
        if self.count <= _PRINTED_BAD_ROWS:
            self._console.print(f"skipped {bad.location}: {bad.reason}", soft_wrap=True)
        if self.count == _PRINTED_BAD_ROWS:
            self._console.print(f"further skipped rows are listed in {self._files[0]}", soft_wrap=True)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(map(len, row.values.values()))
        if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_ROWS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _require_tokens(writers: dict[str, IndexedWriter]) -> None:
    problems = [
        Problem("input", key, "the input has no tokens", "name the field that holds the text in json_keys")
        for key, writer in writers.items()
        if not writer.tokens
    ]
    if problems:
        raise UserError.of(problems)
