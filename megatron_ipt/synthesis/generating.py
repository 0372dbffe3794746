"""Chains of raw texts through the engine, into parts; started again, it goes on with the parts that are missing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain as concatenate
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_ipt.config.synthesis import SynthesizeConfig
from megatron_ipt.corpus.decontamination.decontaminator import Decontaminator
from megatron_ipt.corpus.file_names import name_files
from megatron_ipt.corpus.rows import BadRow, expand_inputs, read_rows
from megatron_ipt.synthesis.chains import Chain, Text, build_chains
from megatron_ipt.synthesis.engines.loading import EngineLoader, TokenizerLoader, load_tokenizer_of
from megatron_ipt.synthesis.parts import Reading, Workspace
from megatron_ipt.synthesis.progress import WorkerProgress
from megatron_ipt.synthesis.prompt_tokenizer import PromptTokenizer
from megatron_ipt.synthesis.prompts import PromptBuilder, read_examples
from megatron_ipt.synthesis.quality.timing import WorkClock
from megatron_ipt.synthesis.rephrasing import Rephraser
from megatron_ipt.synthesis.scheduler import Part, Scheduler
from megatron_ipt.synthesis.splitting import split_text

logger = logging.getLogger(__name__)

_AUGMENTED_CHAINS_A_PART = 32
_CHAINS_A_PART = 4096


class Generation:
    """What one worker does: every `workers`-th input file from number `worker`."""

    def __init__(
        self,
        config: SynthesizeConfig,
        workspace: Workspace,
        load_engine: EngineLoader,
        load_tokenizer: TokenizerLoader,
    ) -> None:
        self._config, self._workspace = config, workspace
        self._load_engine, self._load_tokenizer = load_engine, load_tokenizer

    def run(self, worker: int, workers: int) -> None:
        """Write the missing parts; the engine is only started when there is one."""
        files = list(enumerate(expand_inputs(self._config.input)))[worker::workers]
        todo = [(number, file) for number, file in files if not self._workspace.is_generated(number)]
        total = sum(1 for _, file in todo for _ in self._rows(file, []))
        progress = WorkerProgress(self._workspace.tallies / f"{worker:05d}.json", total)
        parts = self._missing_parts(todo, progress)
        try:
            for first in islice(parts, 1):
                self._generate(concatenate([first], parts), worker, progress)
        finally:
            progress.end()

    def _generate(self, parts: Iterable[Part], worker: int, progress: WorkerProgress) -> None:
        config = self._config
        engine = self._load_engine(config.engine, self._tokenizer)
        with_gains = config.gates.min_answer_gain is not None
        scheduler = Scheduler(
            engine,
            self._builder,
            config.engine.max_new_tokens,
            with_gains=with_gains,
            rephraser=self._open_rephraser(),
            report=progress.add,
        )
        progress.begin()
        clock = WorkClock(self._workspace.clocks / f"{worker:05d}.jsonl", engine.devices)
        try:
            for part, records in scheduler.run(parts):
                self._workspace.write_part(part, records)
                clock.lap()
        finally:
            engine.close()

    def _missing_parts(self, files: Sequence[tuple[int, Path]], progress: WorkerProgress) -> Iterator[Part]:
        for file_number, file in files:
            skipped: list[BadRow] = []
            contaminated: list[dict[str, Any]] = []
            parts = augmented_texts = 0
            for chains in split_chains(self._chains(file, skipped, contaminated)):
                part = (file_number, parts)
                parts += 1
                augmented_texts += sum(len(chain.texts) for chain in chains if chain.augmented)
                if self._workspace.has_part(part):
                    progress.skip(sum(len(chain.texts) for chain in chains))
                    continue
                pending = enumerate(self._workspace.read_pending(part))
                kept = {number: record for number, record in pending if not record.failures}
                progress.skip(sum(len(record.texts) for record in kept.values()))
                yield Part(part, chains, kept)
            progress.skip(len(contaminated))
            for bad in skipped:
                logger.warning("skipped %s: %s", bad.location, bad.reason)
            reading = Reading(parts, augmented_texts, len(skipped), contaminated)
            self._workspace.write_reading(file_number, reading)

    def _chains(self, file: Path, skipped: list[BadRow], contaminated: list[dict[str, Any]]) -> Iterator[Chain]:
        config = self._config
        texts = self._clean_texts(self._rows(file, skipped), contaminated)
        if config.long_texts == "cut":
            return build_chains(texts, config.texts_per_chain, config.augmented_fraction, config.seed)
        split = partial(split_text, max_tokens=self._builder.max_text_tokens, tokenizer=self._tokenizer)
        return build_chains(texts, config.texts_per_chain, config.augmented_fraction, config.seed, split)

    def _clean_texts(self, texts: Iterable[Text], contaminated: list[dict[str, Any]]) -> Iterator[Text]:
        for text in texts:
            if self._decontaminator is None or (hit := self._decontaminator.find(text.text)) is None:
                yield text
            else:
                contaminated.append({"id": text.id, "where": "text", **asdict(hit)})

    def _rows(self, file: Path, skipped: list[BadRow]) -> Iterator[Text]:
        config = self._config
        rows = read_rows([file], [config.text_key], config.bad_input, skipped.append, optional_keys=[config.id_key])
        for row in islice(rows, config.max_texts):
            yield Text(row.values.get(config.id_key, f"{self._names[file]}:{row.line}"), row.values[config.text_key])

    @cached_property
    def _names(self) -> dict[Path, str]:
        return name_files(expand_inputs(self._config.input))

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        return load_tokenizer_of(self._config.engine, self._load_tokenizer)

    @cached_property
    def _builder(self) -> PromptBuilder:
        config = self._config
        examples = read_examples(Path(config.examples) if config.examples else None)
        return PromptBuilder(self._tokenizer, examples, config.engine.max_model_len, config.engine.max_new_tokens)

    def _open_rephraser(self) -> Rephraser | None:
        config = self._config
        return (
            Rephraser(config.rephrase, config.engine, self._tokenizer, config.seed)
            if config.rephrase.fraction
            else None
        )

    @cached_property
    def _decontaminator(self) -> Decontaminator | None:
        return open_decontaminator(self._config)


def open_decontaminator(config: SynthesizeConfig) -> Decontaminator | None:
    """The evaluation sets that are named; None when none is.

    Raises:
        UserError: a file is missing, or its questions cannot be told.
    """
    given = config.decontamination
    return Decontaminator(expand_inputs(given.eval_files), given.ngram_words) if given.eval_files else None


def split_chains(chains: Iterable[Chain]) -> Iterator[list[Chain]]:
    """Parts that hold as many augmented chains as one is willing to lose, and never too many in all."""
    part: list[Chain] = []
    augmented = 0
    for chain in chains:
        part.append(chain)
        augmented += chain.augmented
        if augmented == _AUGMENTED_CHAINS_A_PART or len(part) == _CHAINS_A_PART:
            yield part
            part, augmented = [], 0
    if part:
        yield part
