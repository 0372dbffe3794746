"""Text to megatron-core's indexed datasets: PREFIX_KEY_document.bin and .idx, with a manifest beside them.

Every row gives one document under each key, in the order of the input; a text without tokens gives a document of
length zero, so that document i is always row i (docs/adr/0009 says how Megatron-LM differs). Ids are those
of the tokenizer of the exported model; gigatoken makes them, and samples are held against `tokenizers` all the way.
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
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from rich.console import Console

from megatron_ipt.config.stages import PreprocessConfig
from megatron_ipt.corpus.rows import BadRow, Row, read_rows
from megatron_ipt.data.encoders import EncodedTexts, Encoder, ReferenceEncoder, choose_encoder, split
from megatron_ipt.data.indexed_writer import IndexedWriter
from megatron_ipt.data.preprocess_outputs import Outputs, dataset_prefix, skipped_rows_file
from megatron_ipt.data.preprocess_progress import PreprocessProgress
from megatron_ipt.data.preprocess_settings import check_bounds, check_settings
from megatron_ipt.data.tokenizers import read_tokenizer
from megatron_ipt.data.transformers_tokenizer import LoadedTokenizer, load_tokenizer
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.system_errors import naming

_BATCH_CHARACTERS, _BATCH_ROWS = 8_000_000, 20_000
_FIRST_VERIFIED, _LONGEST_VERIFIED_CHARACTERS = 256, 100_000
_PRINTED_BAD_ROWS = 20


class _EncodersDiffer(Exception):
    """gigatoken gave other ids than `tokenizers` for a row."""


def preprocess(config: PreprocessConfig) -> dict[str, dict[str, Any]]:
    """Run the stage, or skip it when it is finished; by key, the counts that the manifest of its dataset holds.

    Raises:
        UserError: bad settings (all at once), a bad row under `bad_input=fail`, an unfit tokenizer, a file that would
            be overwritten, or no tokens at all.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    files = check_settings(config)
    outputs = Outputs(config, files)
    if outputs.is_complete:
        console.print(f"{config.output_prefix}: already made of these inputs, nothing to do", soft_wrap=True)
        return outputs.counts
    if config.workers:
        os.environ["RAYON_NUM_THREADS"] = str(config.workers)
    try:
        counts = _tokenize(config, files, outputs.start(), console)
    except BaseException:
        outputs.abandon()
        raise
    outputs.finish(counts)
    return counts


def _tokenize(
    config: PreprocessConfig, files: Sequence[Path], tokenizer_folder: Path, console: Console
) -> dict[str, dict[str, Any]]:
    tokenizer = read_tokenizer(tokenizer_folder)
    loaded = replace(load_tokenizer(tokenizer_folder), bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    run = _Run.prepare(config, files, loaded, console)
    try:
        counts = run.write()
    except _EncodersDiffer as difference:
        console.print(f"{difference}; beginning again with tokenizers alone, which is slower", soft_wrap=True)
        run = replace(run, encoder=run.reference)
        counts = run.write()
    used = asdict(tokenizer) | {"encoder": run.encoder.name}
    return {key: {**dataset, "tokenizer": used} for key, dataset in counts.items()}


@dataclass(frozen=True)
class _Run:
    """One pass over the input."""

    config: PreprocessConfig
    files: Sequence[Path]
    loaded: LoadedTokenizer
    reference: ReferenceEncoder
    encoder: Encoder
    console: Console

    @classmethod
    def prepare(
        cls, config: PreprocessConfig, files: Sequence[Path], loaded: LoadedTokenizer, console: Console
    ) -> _Run:
        check_bounds(config, loaded)
        reference = ReferenceEncoder(loaded)
        encoder, reason = choose_encoder(loaded, reference, config.workers)
        if reason is not None:
            console.print(f"{reason}: using tokenizers alone, which is slower", soft_wrap=True)
        return cls(config, files, loaded, reference, encoder, console)

    def write(self) -> dict[str, dict[str, Any]]:
        """Write both files of every key; what was counted, by key."""
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
                    writer.add(*self._bounded(encoded[key]))
                size_bytes = sum(len(text.encode()) for values in texts.values() for text in values)
                tokens = sum(part.ids.size for part in encoded.values())
                progress.advance(batch[-1].file, len(batch), size_bytes, tokens)
            _refuse_emptiness(writers)
        self.console.print(f"{progress.rates()} in {progress.elapsed_seconds:,.1f} s", soft_wrap=True)
        return {
            key: {
                "documents": writer.documents,
                "tokens": writer.tokens,
                "empty_documents": empty[key],
                "skipped_rows": skipped.count,
            }
            for key, writer in writers.items()
        }

    def _encoded_batches(
        self, rows: Iterator[Row]
    ) -> Iterator[tuple[list[Row], dict[str, list[str]], dict[str, EncodedTexts]]]:
        """Batches with their texts and ids by key; the next batch is read while one is encoded."""

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
        """Hold the first documents of the run, and one of each later batch, against the reference."""
        if self.encoder is self.reference:
            return
        short = [place for place, text in enumerate(texts) if len(text) <= _LONGEST_VERIFIED_CHARACTERS]
        places = short[: _FIRST_VERIFIED if is_first else 1]
        if not places:
            return
        expected = split(self.reference.encode([texts[place] for place in places]))
        ends = np.cumsum(encoded.lengths)
        for place, ids in zip(places, expected, strict=True):
            if not np.array_equal(encoded.ids[ends[place] - encoded.lengths[place] : ends[place]], ids):
                row = batch[place]
                raise _EncodersDiffer(f"gigatoken and tokenizers differ on {row.file}:{row.line}")

    def _bounded(self, encoded: EncodedTexts) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """The ids and lengths with BOS before and EOS after each document, where asked for."""
        ids, lengths = encoded.ids, encoded.lengths
        bos_id = self.loaded.bos_id if self.config.prepend_bod else None
        eos_id = self.loaded.eos_id if self.config.append_eod else None
        longer = lengths + (bos_id is not None) + (eos_id is not None)
        ends = np.cumsum(longer)
        bounded = np.empty(int(ends[-1]), np.uint32)
        is_text = np.ones(bounded.size, bool)
        for places, token in ((ends - longer, bos_id), (ends - 1, eos_id)):
            if token is not None:
                bounded[places] = token
                is_text[places] = False
        bounded[is_text] = ids
        return bounded, longer


class _SkippedRows:
    """Writes each bad row's place and reason beside each dataset that lacks it, and the first ones to the console."""

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
        """Count and name one bad row."""
        self.count += 1
        self._handle.write(orjson.dumps({"place": bad.place, "reason": bad.reason}) + b"\n")
        if self.count <= _PRINTED_BAD_ROWS:
            self._console.print(f"skipped {bad.place}: {bad.reason}", soft_wrap=True)
        if self.count == _PRINTED_BAD_ROWS:
            self._console.print(f"further skipped rows will be named in {self._files[0]}", soft_wrap=True)


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


def _refuse_emptiness(writers: dict[str, IndexedWriter]) -> None:
    problems = [
        Problem("input", key, "not one token in all the input", "name the field that holds the text in json_keys")
        for key, writer in writers.items()
        if not writer.tokens
    ]
    if problems:
        raise UserError.of(problems)
