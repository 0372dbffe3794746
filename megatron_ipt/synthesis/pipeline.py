"""Raw text to instruction-augmented corpus, part by part; started again, it goes on after the last finished part."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from megatron_ipt.config.synthesis import EngineConfig, SynthesizeConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.corpus.rows import BadRow, expand_inputs, read_rows
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.synthesis.augmentation import augment
from megatron_ipt.synthesis.chains import Chain, Text, build_chains
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.engine import Engine
from megatron_ipt.synthesis.grammar import Example
from megatron_ipt.synthesis.parts import Parts
from megatron_ipt.synthesis.prompts import PromptBuilder, read_examples
from megatron_ipt.synthesis.templates import load_template

logger = logging.getLogger(__name__)

_AUGMENTED_CHAINS_A_PART = 16
_CHAINS_A_PART = 4096


def synthesize(config: SynthesizeConfig, load_engine: Callable[[EngineConfig], Engine]) -> dict[str, Any]:
    """Write `augmented.jsonl`, `pairs.jsonl` and the manifest into `config.output`; returns what was counted.

    Raises:
        UserError: a setting, an input or the model is unfit, or the output folder holds something else.
    """
    _check(config)
    files = expand_inputs(config.input)
    examples_file = Path(config.examples) if config.examples else None
    examples = read_examples(examples_file)
    stage = _open_stage(config, files, examples_file)
    if stage.is_complete:
        logger.info("%s is finished: skipped", config.output)
        return stage.counts
    stage.start()
    skipped: list[BadRow] = []
    total = sum(1 for _ in _read_texts(config, files, lambda bad: None))
    parts = _split(_chains(config, _read_texts(config, files, skipped.append)))
    counts, number_of_parts = _run(config, parts, examples, total, load_engine)
    for bad in skipped:
        logger.warning("skipped %s: %s", bad.place, bad.reason)
    figures = {**counts.to_dict(), "skipped_rows": len(skipped)}
    stage.finish(Parts(stage.folder).join(number_of_parts), figures)
    return figures


def _run(
    config: SynthesizeConfig,
    parts: Iterable[list[Chain]],
    examples: list[Example],
    total_texts: int,
    load_engine: Callable[[EngineConfig], Engine],
) -> tuple[Counts, int]:
    store, template, counts = Parts(Path(config.output)), load_template("plain"), Counts()
    engine: Engine | None = None
    number_of_parts = 0
    with _ProgressReport(total_texts) as progress:
        for number, chains in enumerate(parts):
            number_of_parts = number + 1
            part_counts = store.read_counts(number)
            if part_counts is None:
                if engine is None:  # a run that only has to join its parts needs no model
                    engine = load_engine(config.engine)
                    builder = PromptBuilder(engine, examples, config.engine.max_model_len, config.engine.max_new_tokens)
                results, part_counts = augment(chains, engine, builder, config.engine.max_new_tokens)
                store.write(number, results, template, part_counts)
            counts.add(part_counts)
            progress.update(counts)
    return counts, number_of_parts


def _check(config: SynthesizeConfig) -> None:
    problems = []
    if not 0 <= config.augmented_fraction <= 1:
        problems.append(Problem("augmented_fraction", config.augmented_fraction, "not a share", "give 0 to 1"))
    if config.texts_per_chain < 1:
        problems.append(Problem("texts_per_chain", config.texts_per_chain, "below 1", "give 1 or more"))
    for name in ("batch_size", "max_model_len", "max_new_tokens"):
        if (value := getattr(config.engine, name)) < 1:
            problems.append(Problem(f"engine.{name}", value, "below 1", "give 1 or more"))
    if problems:
        raise UserError.of(problems)


def _open_stage(config: SynthesizeConfig, files: list[Path], examples_file: Path | None) -> Stage:
    model = Path(config.engine.model)
    model_files = sorted(path for path in model.iterdir() if path.is_file()) if model.is_dir() else []
    inputs = [*files, *([examples_file] if examples_file else []), *model_files]
    identity = {key: value for key, value in asdict(config).items() if key not in ("input", "output", "examples")}
    return Stage("synthesize", Path(config.output), identity, inputs, config.seed)


def _read_texts(config: SynthesizeConfig, files: list[Path], report: Callable[[BadRow], None]) -> Iterator[Text]:
    rows = read_rows(files, [config.text_key], config.bad_input, report, optional_keys=[config.id_key])
    for number, row in enumerate(islice(rows, config.max_texts)):
        yield Text(row.values.get(config.id_key, str(number)), row.values[config.text_key])


def _chains(config: SynthesizeConfig, texts: Iterable[Text]) -> Iterator[Chain]:
    return build_chains(texts, config.texts_per_chain, config.augmented_fraction, config.seed)


def _split(chains: Iterable[Chain]) -> Iterator[list[Chain]]:
    """Parts that hold as many augmented chains as keep an engine busy, and never too many in all."""
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


class _ProgressReport:
    """A bar on a terminal, a line a part elsewhere: texts, pairs, pairs a second, time left."""

    def __init__(self, total_texts: int) -> None:
        self._total, self._started_seconds = total_texts, time.monotonic()
        self._bar = Progress(
            TextColumn("synthesize"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("texts | {task.fields[pairs]} pairs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("", total=total_texts, pairs=0)

    def __enter__(self) -> _ProgressReport:
        if self._bar.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.console.is_terminal:
            self._bar.stop()

    def update(self, counts: Counts) -> None:
        """Show how far it has come."""
        self._bar.update(self._task, completed=counts.texts, pairs=counts.pairs)
        if not self._bar.console.is_terminal:
            seconds = time.monotonic() - self._started_seconds
            left = seconds / counts.texts * (self._total - counts.texts)
            logger.info(
                "%d/%d texts | %d pairs | %d of %d augmented texts without | %.2f pairs/s | ETA %.0f s",
                counts.texts,
                self._total,
                counts.pairs,
                counts.texts_without_pairs,
                counts.augmented_texts,
                counts.pairs / seconds,
                left,
            )
