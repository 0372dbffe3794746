"""The scheduler keeps an engine busy: the next text of a chain is submitted once the previous one has its pairs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from megatron_ipt.lm.engine import Completion, LMEngine, Request
from megatron_ipt.pairs.grammar import Example, parse_pairs
from megatron_ipt.pairs.prompts import Prompt, PromptBuilder
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.generation.chains import Chain
from megatron_ipt.synthesis.generation.rephrasing import Rephraser
from megatron_ipt.synthesis.records import ChainRecord, TextRecord

PartId = tuple[int, int]
"""The number of an input file, and of a part within it."""


@dataclass(frozen=True)
class Part:
    """Chains that are written together; `kept` holds the records of those that an earlier run finished, by number."""

    id: PartId
    chains: list[Chain]
    kept: Mapping[int, ChainRecord] = field(default_factory=dict)


@dataclass
class _ChainState:
    """A chain in progress; `context` holds the texts with pairs that precede the next text in its prompt (M-shot)."""

    part: _PartState
    chain: Chain
    records: list[TextRecord] = field(default_factory=list)
    context: list[Example] = field(default_factory=list)
    prompt: Prompt | None = None
    rephrasing_ids: list[int] | None = None
    """The prompt in flight, if it requests a rephrasing of the text of the last record."""

    @property
    def is_finished(self) -> bool:
        return len(self.records) == len(self.chain.texts) and self.rephrasing_ids is None

    def add_record(self, record: TextRecord) -> None:
        """Add the record of the next text; one without pairs clears the context, but does not end the chain."""
        self.records.append(record)
        self.context = [*self.context, record.example] if record.pairs else []


@dataclass
class _PartState:
    part: Part
    chains: dict[int, _ChainState] = field(default_factory=dict)
    """The chains that are not kept, by number."""
    unfinished: int = 0


class Scheduler:
    """Runs parts of a corpus through an engine, with as many requests in flight as its capacity.

    There is no barrier between the texts of different chains, nor between parts. Only an engine whose answers depend on
    the requests in the same batch begins each part without others in flight, so that a part that is run again gets the
    same answers.
    """

    def __init__(
        self,
        engine: LMEngine,
        builder: PromptBuilder,
        max_new_tokens: int,
        *,
        with_gains: bool,
        rephraser: Rephraser | None = None,
        report: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        """Prepare a run; nothing is submitted yet.

        Args:
            engine: the language model.
            builder: builds the prompts.
            max_new_tokens: the limit of each answer.
            with_gains: whether to score each answer with and without its text.
            rephraser: rephrases texts that have pairs; None for no rephrasings.
            report: called with the counts of the texts finished since its last call.
        """
        self._engine, self._builder, self._rephraser = engine, builder, rephraser
        self._max_new_tokens, self._with_gains = max_new_tokens, with_gains
        self._waits_between_parts = not engine.batch_invariant or with_gains
        self._report, self._unreported = report, Counts()
        self._keys = count()
        self._waiting: deque[_ChainState] = deque()
        self._in_flight: dict[int, _ChainState] = {}

    def run(self, parts: Iterable[Part]) -> Iterator[tuple[PartId, list[ChainRecord]]]:
        """Yield the records of each part once its last chain is finished."""
        source = iter(parts)
        while True:
            yield from self._fill(source)
            if not self._in_flight:
                return
            for completion in self._engine.collect():
                state = self._in_flight.pop(completion.key)
                self._process(state, completion)
                if not state.is_finished:
                    self._submit(state)
                    continue
                state.part.unfinished -= 1
                if not state.part.unfinished:
                    yield self._finish_part(state.part)
            self._report(self._unreported)
            self._unreported = Counts()

    def _fill(self, source: Iterator[Part]) -> Iterator[tuple[PartId, list[ChainRecord]]]:
        """Submit requests up to the engine's capacity; yield parts that need none."""
        while len(self._in_flight) < self._engine.capacity:
            if self._waiting:
                self._submit(self._waiting.popleft())
            elif (self._in_flight and self._waits_between_parts) or (part := self._open_part(source)) is None:
                return
            elif not part.unfinished:
                yield self._finish_part(part)

    def _open_part(self, source: Iterator[Part]) -> _PartState | None:
        found = next(source, None)
        if found is None:
            return None
        part = _PartState(found)
        for number, chain in enumerate(found.chains):
            if number in found.kept:
                continue
            state = part.chains[number] = _ChainState(part, chain)
            if chain.augmented:
                part.unfinished += 1
                self._waiting.append(state)
            else:
                state.records = [TextRecord(text.id, text.text) for text in chain.texts]
                self._unreported.texts += len(chain.texts)
        return part

    def _submit(self, state: _ChainState) -> None:
        key = next(self._keys)
        self._in_flight[key] = state
        if state.rephrasing_ids is None:
            state.prompt = self._builder.build(state.context, state.chain.texts[len(state.records)].text)
            self._engine.submit(Request(key, state.prompt.ids, self._max_new_tokens))
        else:
            self._engine.submit(Request(key, state.rephrasing_ids, self._max_new_tokens))

    def _process(self, state: _ChainState, completion: Completion) -> None:
        """Process an answer: pairs, after which a rephrasing may be requested, or a rephrasing."""
        if state.rephrasing_ids is None:
            state.add_record(self._make_record(state, completion))
            if self._rephraser is not None:
                prompt = self._rephraser.build_prompt(state.records[-1])
                if isinstance(prompt, TextRecord):
                    state.records[-1] = prompt
                else:
                    state.rephrasing_ids = prompt
        else:
            assert self._rephraser is not None
            state.records[-1] = self._rephraser.apply(state.records[-1], len(state.rephrasing_ids), completion)
            state.rephrasing_ids = None
        if state.rephrasing_ids is None:
            self._unreported.add_text(state.records[-1])

    def _make_record(self, state: _ChainState, completion: Completion) -> TextRecord:
        assert state.prompt is not None
        text = state.chain.texts[len(state.records)]
        parsed = parse_pairs(self._builder.opening + completion.text)
        drops = parsed.drops if completion.failure is None else {completion.failure.drop_reason: 1}
        return TextRecord(
            text.id,
            text.text,
            pairs=parsed.pairs,
            drops=dict(drops),
            prompt_tokens=len(state.prompt.ids),
            generated_tokens=completion.tokens,
            was_cut=state.prompt.text_was_cut,
            failure=completion.failure,
        )

    def _finish_part(self, part: _PartState) -> tuple[PartId, list[ChainRecord]]:
        records = [ChainRecord(state.chain.augmented, tuple(state.records)) for state in part.chains.values()]
        if self._with_gains:
            records = self._with_answer_gains(records)
        by_number = {**part.part.kept, **dict(zip(part.chains, records, strict=True))}
        return part.part.id, [by_number[number] for number in sorted(by_number)]

    def _with_answer_gains(self, records: list[ChainRecord]) -> list[ChainRecord]:
        """Return the records with the gain of each answer: its score after the text minus its score without it."""
        pairs = [(text.text, pair) for record in records for text in record.texts for pair in text.pairs]
        if not pairs:
            return records
        with_text = [self._builder.build_scored(text, pair) for text, pair in pairs]
        without_text = [self._builder.build_scored(None, pair) for _, pair in pairs]
        prompts, answers = zip(*with_text, *without_text, strict=True)
        scores = self._engine.score(prompts, answers)
        gains = deque(
            informed - uninformed
            for informed, uninformed in zip(scores[: len(pairs)], scores[len(pairs) :], strict=True)
        )
        return [
            replace(
                record,
                texts=tuple(
                    replace(text, answer_gains=tuple(gains.popleft() for _ in text.pairs)) for text in record.texts
                ),
            )
            for record in records
        ]
