"""Keeps an engine busy with chains: the next text of a chain is asked for as soon as the one before has its pairs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from megatron_ipt.synthesis.chains import Chain
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.engines.engine import Engine, Generation, Request
from megatron_ipt.synthesis.grammar import Example, parse_pairs
from megatron_ipt.synthesis.prompts import Prompt, PromptBuilder
from megatron_ipt.synthesis.records import ChainRecord, TextRecord
from megatron_ipt.synthesis.rephrasing import Rephraser

PartId = tuple[int, int]
"""An input file's number and the part's number within it."""


@dataclass(frozen=True)
class Part:
    """Chains that are written together; `kept` holds the records of those that a former run has finished, by number."""

    id: PartId
    chains: list[Chain]
    kept: Mapping[int, ChainRecord] = field(default_factory=dict)


@dataclass
class _OpenChain:
    """A chain some of whose texts have their pairs; `context` holds those that stand before the next one (M-shot)."""

    part: _OpenPart
    chain: Chain
    records: list[TextRecord] = field(default_factory=list)
    context: list[Example] = field(default_factory=list)
    prompt: Prompt | None = None
    rephrasing_ids: list[int] | None = None
    """The prompt in flight where it asks for a rephrasing of the last record's text."""

    @property
    def is_finished(self) -> bool:
        return len(self.records) == len(self.chain.texts) and self.rephrasing_ids is None

    def take(self, record: TextRecord) -> None:
        """The record of the next text; one without pairs ends the context, but not the chain."""
        self.records.append(record)
        self.context = [*self.context, record.example] if record.pairs else []


@dataclass
class _OpenPart:
    part: Part
    chains: dict[int, _OpenChain] = field(default_factory=dict)
    """Those that are not kept, by number."""
    unfinished: int = 0


class Scheduler:
    """Runs parts of a corpus through an engine, with as many requests in flight as it has capacity for.

    There is no barrier between the texts of different chains, nor between parts; only an engine whose answers depend
    on the requests beside them begins each part empty, so that a part run again gives the same answers.
    """

    def __init__(
        self,
        engine: Engine,
        builder: PromptBuilder,
        max_new_tokens: int,
        *,
        with_gains: bool,
        rephraser: Rephraser | None = None,
        report: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        """`report` is called with what was counted of the texts finished since it was last called."""
        self._engine, self._builder, self._rephraser = engine, builder, rephraser
        self._max_new_tokens, self._with_gains = max_new_tokens, with_gains
        self._drains = engine.depends_on_company or with_gains
        self._report, self._unreported = report, Counts()
        self._keys = count()
        self._waiting: deque[_OpenChain] = deque()
        self._flying: dict[int, _OpenChain] = {}

    def run(self, parts: Iterable[Part]) -> Iterator[tuple[PartId, list[ChainRecord]]]:
        """Each part's records as soon as its last chain is finished."""
        source = iter(parts)
        while True:
            yield from self._fill(source)
            if not self._flying:
                return
            for generation in self._engine.collect():
                one = self._flying.pop(generation.key)
                self._take(one, generation)
                if not one.is_finished:
                    self._submit(one)
                    continue
                one.part.unfinished -= 1
                if not one.part.unfinished:
                    yield self._close(one.part)
            self._report(self._unreported)
            self._unreported = Counts()

    def _fill(self, source: Iterator[Part]) -> Iterator[tuple[PartId, list[ChainRecord]]]:
        """Put requests in flight up to the engine's capacity; gives out parts that have nothing to ask."""
        while len(self._flying) < self._engine.capacity:
            if self._waiting:
                self._submit(self._waiting.popleft())
            elif (self._flying and self._drains) or (part := self._open(source)) is None:
                return
            elif not part.unfinished:
                yield self._close(part)

    def _open(self, source: Iterator[Part]) -> _OpenPart | None:
        found = next(source, None)
        if found is None:
            return None
        part = _OpenPart(found)
        for number, chain in enumerate(found.chains):
            if number in found.kept:
                continue
            one = part.chains[number] = _OpenChain(part, chain)
            if chain.augmented:
                part.unfinished += 1
                self._waiting.append(one)
            else:
                one.records = [TextRecord(text.id, text.text) for text in chain.texts]
                self._unreported.texts += len(chain.texts)
        return part

    def _submit(self, one: _OpenChain) -> None:
        key = next(self._keys)
        self._flying[key] = one
        if one.rephrasing_ids is None:
            one.prompt = self._builder.build(one.context, one.chain.texts[len(one.records)].text)
            self._engine.submit(Request(key, one.prompt.ids, self._max_new_tokens))
        else:
            self._engine.submit(Request(key, one.rephrasing_ids, self._max_new_tokens))

    def _take(self, one: _OpenChain, generation: Generation) -> None:
        """Pairs, which a rephrasing may be wanted beside, or a rephrasing."""
        if one.rephrasing_ids is None:
            one.take(self._record(one, generation))
            if self._rephraser is not None:
                asked = self._rephraser.ask(one.records[-1])
                if isinstance(asked, TextRecord):
                    one.records[-1] = asked
                else:
                    one.rephrasing_ids = asked
        else:
            assert self._rephraser is not None
            one.records[-1] = self._rephraser.take(one.records[-1], len(one.rephrasing_ids), generation)
            one.rephrasing_ids = None
        if one.rephrasing_ids is None:
            self._unreported.add_text(one.records[-1])

    def _record(self, one: _OpenChain, generation: Generation) -> TextRecord:
        assert one.prompt is not None
        text = one.chain.texts[len(one.records)]
        parsed = parse_pairs(self._builder.opening + generation.text)
        drops = parsed.drops if generation.failure is None else {generation.failure.drop_reason: 1}
        return TextRecord(
            text.id,
            text.text,
            pairs=parsed.pairs,
            drops=dict(drops),
            prompt_tokens=len(one.prompt.ids),
            generated_tokens=generation.tokens,
            was_cut=one.prompt.text_was_cut,
            failure=generation.failure,
        )

    def _close(self, part: _OpenPart) -> tuple[PartId, list[ChainRecord]]:
        records = [ChainRecord(one.chain.augmented, tuple(one.records)) for one in part.chains.values()]
        if self._with_gains:
            records = self._with_answer_gains(records)
        by_number = {**part.part.kept, **dict(zip(part.chains, records, strict=True))}
        return part.part.id, [by_number[number] for number in sorted(by_number)]

    def _with_answer_gains(self, records: list[ChainRecord]) -> list[ChainRecord]:
        asked = [(text.text, pair) for record in records for text in record.texts for pair in text.pairs]
        if not asked:
            return records
        informed = [self._builder.build_scored(text, pair) for text, pair in asked]
        blind = [self._builder.build_scored(None, pair) for _, pair in asked]
        prompts, answers = zip(*informed, *blind, strict=True)
        scores = self._engine.score(prompts, answers)
        gains = deque(told - guessed for told, guessed in zip(scores[: len(asked)], scores[len(asked) :], strict=True))
        return [
            replace(
                record,
                texts=tuple(
                    replace(text, answer_gains=tuple(gains.popleft() for _ in text.pairs)) for text in record.texts
                ),
            )
            for record in records
        ]
