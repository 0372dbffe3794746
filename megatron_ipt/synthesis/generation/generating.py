"""The generation phase: sends chains of raw texts through the engine and writes parts; a rerun adds missing parts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain as concatenate
from itertools import islice
from pathlib import Path

from megatron_ipt.config.synthesis import SynthesizeConfig
from megatron_ipt.corpus.decontamination.decontaminator import Decontaminator
from megatron_ipt.corpus.file_names import name_files
from megatron_ipt.corpus.manifest import JsonObject
from megatron_ipt.corpus.rows import BadRow, expand_inputs, read_rows
from megatron_ipt.lm.loading import EngineLoader, TokenizerLoader, load_tokenizer_of
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.pairs.prompts import PromptBuilder, read_examples
from megatron_ipt.synthesis.generation.chains import Chain, Text, build_chains
from megatron_ipt.synthesis.generation.parts import InputSummary, Workspace
from megatron_ipt.synthesis.generation.progress import WorkerProgress
from megatron_ipt.synthesis.generation.rephrasing import Rephraser
from megatron_ipt.synthesis.generation.scheduler import Part, Scheduler
from megatron_ipt.synthesis.generation.splitting import split_text
from megatron_ipt.synthesis.quality.timing import WorkClock

logger = logging.getLogger(__name__)

# Parts are identified by their numbers only: with other limits, those of an unfinished run would mean other chains.
_AUGMENTED_CHAINS_PER_PART = 32  # the work that is lost if a worker is killed
_CHAINS_PER_PART = 4096


class GenerationWorker:
    """One of several workers: processes every `workers`-th input file, starting with file number `worker`."""

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
        """Write the missing parts of this worker's files; the engine is only started if there are any.

        Raises:
            UserError: an input, the model or an evaluation set is invalid.
            TemporaryFailure: the engine stopped or cannot be reached.
        """
        files = list(enumerate(expand_inputs(self._config.input)))[worker::workers]
        unfinished = [(number, file) for number, file in files if not self._workspace.is_generated(number)]
        total = sum(1 for _, file in unfinished for _ in self._rows(file, []))
        progress = WorkerProgress(self._workspace.tallies / f"{worker:05d}.json", total)
        parts = self._missing_parts(unfinished, progress)
        try:
            if (first := next(parts, None)) is not None:
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
            contaminated: list[JsonObject] = []
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
            # written last: it marks that the file was read to its end, and states the number of its parts
            summary = InputSummary(parts, augmented_texts, len(skipped), contaminated)
            self._workspace.write_summary(file_number, summary)

    def _chains(self, file: Path, skipped: list[BadRow], contaminated: list[JsonObject]) -> Iterator[Chain]:
        config = self._config
        texts = self._clean_texts(self._rows(file, skipped), contaminated)
        if config.long_texts == "cut":
            return build_chains(texts, config.texts_per_chain, config.augmented_fraction, config.seed)
        split = partial(split_text, max_tokens=self._builder.max_text_tokens, tokenizer=self._tokenizer)
        return build_chains(texts, config.texts_per_chain, config.augmented_fraction, config.seed, split)

    def _clean_texts(self, texts: Iterable[Text], contaminated: list[JsonObject]) -> Iterator[Text]:
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
    """Read the evaluation sets that are configured; None if there are none.

    Raises:
        UserError: a file is missing, or its questions cannot be identified.
    """
    given = config.decontamination
    return Decontaminator(expand_inputs(given.eval_files), given.ngram_words) if given.eval_files else None


def split_chains(chains: Iterable[Chain]) -> Iterator[list[Chain]]:
    """Group chains into parts with a bounded number of augmented chains, which a kill may lose, and of all chains."""
    part: list[Chain] = []
    augmented = 0
    for chain in chains:
        part.append(chain)
        augmented += chain.augmented
        if augmented == _AUGMENTED_CHAINS_PER_PART or len(part) == _CHAINS_PER_PART:
            yield part
            part, augmented = [], 0
    if part:
        yield part
