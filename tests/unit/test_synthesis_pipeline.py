"""Chains, prompts, templates and parts, with an engine of few rules in place of a language model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_ipt.config.synthesis import EngineConfig, SynthesizeConfig
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.chains import Text, build_chains, is_augmented
from megatron_ipt.synthesis.engine import Generation
from megatron_ipt.synthesis.grammar import Example, Pair, render_context, render_pairs
from megatron_ipt.synthesis.pipeline import synthesize
from megatron_ipt.synthesis.prompts import PromptBuilder
from megatron_ipt.synthesis.templates import load_template


class EchoEngine:
    """Asks for the first word of the text it reads; its tokens are characters."""

    bos_ids = (1,)
    eos_ids = (2,)

    def __init__(self, _: EngineConfig | None = None) -> None:
        self.prompts: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [ord(character) + 3 for character in text]

    def cut(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
        return [self._generate(prompt, max_new_tokens) for prompt in prompts]

    def _generate(self, prompt: Sequence[int], max_new_tokens: int) -> Generation:
        text = "".join(chr(token - 3) if token > 2 else "" for token in prompt)
        self.prompts.append(text)
        words = text.rpartition("<CON> ")[2].split()
        if words[0] == "mute":
            return Generation("", 0)
        answer = f"<QUE> First word? <ANS> {words[0]} </END>"[:max_new_tokens]
        return Generation(answer, len(answer))


def texts(count: int) -> list[Text]:
    return [Text(f"t{number}", f"word{number} and more") for number in range(count)]


@pytest.mark.parametrize("per_chain", [1, 2, 3])
@pytest.mark.parametrize("count", range(9))
def test_every_text_stands_in_exactly_one_chain(count: int, per_chain: int) -> None:
    chains = list(build_chains(texts(count), per_chain, fraction=1.0, seed=1))
    assert [text.id for chain in chains for text in chain.texts] == [text.id for text in texts(count)]
    assert [len(chain.texts) for chain in chains[:-1]] == [per_chain] * (len(chains) - 1)


def test_chain_holds_different_texts() -> None:
    same = [Text("a", "same"), Text("b", "same"), Text("c", "other")]
    assert [[text.id for text in chain.texts] for chain in build_chains(same, 2, 1.0, 1)] == [["a"], ["b", "c"]]


def test_share_of_augmented_texts_follows_the_fraction() -> None:
    chosen = sum(is_augmented(f"text-{number}", 0.2, seed=7) for number in range(20_000))
    assert 3800 < chosen < 4200


def test_empty_text_is_kept_raw() -> None:
    (chain,) = build_chains([Text("a", " \n")], 1, 1.0, 1)
    assert not chain.augmented


def test_prompt_holds_earlier_texts_only_with_pairs_and_only_while_they_fit() -> None:
    engine = EchoEngine()
    builder = PromptBuilder(engine, [], max_model_len=200, max_new_tokens=50)
    told, silent = Example("earlier", (Pair("q", "a"),)), Example("mute", ())
    with_context = builder.build([told, silent], "short").ids
    assert with_context == [
        1,
        *engine.encode(render_context("earlier") + render_pairs(told.pairs)),
        2,
        1,
        *engine.encode(render_context("short")),
    ]
    assert builder.build([told], "x" * 120).ids == [1, *engine.encode(render_context("x" * 120))]


def test_long_text_is_cut_to_the_window() -> None:
    prompt = PromptBuilder(EchoEngine(), [], 200, 50).build([], "word " * 200_000)
    assert prompt.text_was_cut
    assert len(prompt.ids) == 150


def test_examples_that_leave_no_room_are_refused() -> None:
    with pytest.raises(UserError, match="no room for a text"):
        PromptBuilder(EchoEngine(), [Example("x" * 150, (Pair("q", "a"),))], 200, 50)


def test_plain_template_keeps_text_and_pairs() -> None:
    template = load_template("plain")
    told = Example("A text with {braces}.", (Pair("Why {x}?", "Because."),))
    assert template.render([told, Example("Raw.", ())]) == (
        "A text with {braces}.\n\nQuestion: Why {x}?\nAnswer: Because.\n\nRaw."
    )


def config(folder: Path, **changes: object) -> SynthesizeConfig:
    rows = [{"id": text.id, "text": text.text} for text in texts(60)]
    rows[5]["text"], rows[6]["text"] = "", "mute text"
    raw = folder / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"input": [str(raw)], "output": str(folder / "out"), "engine": EngineConfig(model="echo"), **changes}
    return SynthesizeConfig(**given)


def test_corpus_holds_every_text_once_and_counts_add_up(tmp_path: Path) -> None:
    counts = synthesize(config(tmp_path, texts_per_chain=2), EchoEngine)
    rows = [json.loads(line) for line in (tmp_path / "out" / "augmented.jsonl").read_text().splitlines()]
    assert sorted(source for row in rows for source in row["sources"]) == sorted(text.id for text in texts(60))
    assert (counts["texts"], counts["augmented_texts"], counts["pairs"], counts["texts_without_pairs"]) == (
        60,
        59,
        58,
        1,
    )
    assert sum(row["pairs"] for row in rows) == 58
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None and manifest.status == "complete" and manifest.counts == counts


def test_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    class DyingEngine(EchoEngine):
        def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
            if self.prompts:
                raise KeyboardInterrupt
            return super().generate(prompts, max_new_tokens)

    undisturbed, disturbed = tmp_path / "one", tmp_path / "two"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    synthesize(config(undisturbed), EchoEngine)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            synthesize(config(disturbed), DyingEngine)
    last: list[EchoEngine] = []
    synthesize(config(disturbed), lambda given: last.append(EchoEngine(given)) or last[-1])
    assert 0 < len(last[0].prompts) < 59
    for name in ("augmented.jsonl", "pairs.jsonl", "manifest.json"):
        assert (disturbed / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()


def test_finished_run_is_skipped(tmp_path: Path) -> None:
    first = synthesize(config(tmp_path), EchoEngine)
    engine = EchoEngine()
    assert synthesize(config(tmp_path), lambda _: engine) == first
    assert engine.prompts == []


def test_bad_settings_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        synthesize(config(tmp_path, augmented_fraction=2.0, texts_per_chain=0), EchoEngine)
    assert [problem.field for problem in caught.value.problems] == ["augmented_fraction", "texts_per_chain"]
