"""Rephrasings: selection, prompts, validation, rendering, and resuming after a kill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_rendering import ONE_OF_EACH, only
from test_synthesis_pipeline import Characters, EchoEngine, config

from megatron_ipt.config.synthesis import DecontaminationConfig, EngineConfig, RenderConfig, RephraseConfig
from megatron_ipt.errors import UserError
from megatron_ipt.lm.engine import Completion, Failure, Request
from megatron_ipt.synthesis.generation.rephrasing import Rephraser, find_rejection_reason, read_prompt
from megatron_ipt.synthesis.pipeline import synthesize
from megatron_ipt.synthesis.records import ChainRecord, TextRecord
from megatron_ipt.synthesis.rendering.bank import rephrasing_templates
from megatron_ipt.synthesis.rendering.renderer import Renderer

CUE = "In other words:"
TEXT = " ".join(f"word{number}" for number in range(30))
OTHER = " ".join(f"other{number}" for number in range(30))
ENGINE = EngineConfig(model="echo", max_model_len=8192)


class Rewording(EchoEngine):
    """Reverses the words of a text that is to be rephrased."""

    def _generate(self, request: Request) -> Completion:
        text = self._text(request.prompt)
        if not text.endswith(CUE):
            return super()._generate(request)
        self.prompts.append(text)
        words = text.rpartition(" <CON> ")[2].partition(" </CON>")[0].split()
        answer = "" if words[0] == "word9" else " ".join(reversed(words))
        return Completion(request.key, f" {answer}\n", len(answer))


def make(folder: Path, engine: EchoEngine, **changes: object) -> dict:
    counts = synthesize(config(folder, engine=ENGINE, **changes), lambda *_: engine, lambda _: Characters())
    assert counts is not None
    return counts


def rows(folder: Path, name: str) -> list[dict]:
    files = sorted((folder / "out").glob(f"{name}-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("batch_invariant", [True, False])
def test_rephrasings_are_in_the_corpus_and_survive_a_kill(tmp_path: Path, batch_invariant: bool) -> None:
    undisturbed, disturbed = tmp_path / "one", tmp_path / "two"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    changes = {"rephrase": RephraseConfig(fraction=0.5), "texts_per_chain": 2}
    counts = make(undisturbed, Rewording(), **changes)
    told = {row["id"]: row["rephrasing"] for row in rows(undisturbed, "pairs") if "rephrasing" in row}
    assert 50 < len(told) == counts["rephrasings"] < 100
    assert counts["rephrasing_drops"] in ({}, {"empty": 1})
    assert all(told[f"t{n}"] == f"more and word{n}" for n in range(8, 150) if f"t{n}" in told)
    for row in rows(undisturbed, "augmented"):
        written = [source for source in row["sources"] if source in told]
        assert all(told[source] in row["text"] for source in written)
        assert ("+rephrasing/" in row.get("template", "")) == bool(written)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make(disturbed, Rewording(batch_invariant=batch_invariant, dies_after=80), **changes)
    make(disturbed, Rewording(batch_invariant=batch_invariant), **changes)
    for file in (undisturbed / "out").iterdir():
        if file.stem != "timing":
            assert (disturbed / "out" / file.name).read_bytes() == file.read_bytes()


def test_pairs_are_the_same_with_rephrasings_and_without(tmp_path: Path) -> None:
    for name, fraction in (("with", 1.0), ("without", 0.0)):
        (tmp_path / name).mkdir()
        make(tmp_path / name, Rewording(), texts_per_chain=3, rephrase=RephraseConfig(fraction=fraction))
    with_them, without = (
        [{"id": row["id"], "pairs": row["pairs"]} for row in rows(tmp_path / name, "pairs")]
        for name in ("with", "without")
    )
    assert with_them == without
    assert not any("rephrasing" in row for row in rows(tmp_path / "without", "pairs"))


def test_rephrasing_with_an_evaluation_question_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "eval.test.jsonl"
    file.write_text(json.dumps({"question": "more and word20"}) + "\n")
    given = DecontaminationConfig(eval_files=[str(file)])
    folder = tmp_path / "run"
    folder.mkdir()
    counts = make(folder, Rewording(), rephrase=RephraseConfig(fraction=1.0), decontamination=given)
    assert counts["rephrasing_drops"]["holds a question of an evaluation set"] == 1
    hits = [json.loads(line) for line in (folder / "out" / "contamination.jsonl").read_text().splitlines()]
    assert [(hit["id"], hit["where"]) for hit in hits] == [("t20", "rephrasing")]


@pytest.mark.parametrize(
    ("rephrasing", "fault"),
    [
        (OTHER, None),
        ("", "empty"),
        (f"{OTHER} <QUE> Who? <ANS> Ann. </END>", "holds a tag"),
        (f"{OTHER} {OTHER}", "too long"),
        ("other1 other2", "too short"),
        (TEXT, "copied"),
        (TEXT.upper(), "copied"),
        (" ".join([*TEXT.split()[:20], *OTHER.split()[:10]]), "copied"),
        (" ".join([*TEXT.split()[:10], *OTHER.split()[:20]]), None),
    ],
)
def test_invalid_rephrasings_are_rejected(rephrasing: str, fault: str | None) -> None:
    assert find_rejection_reason(TEXT, rephrasing) == fault


def test_copy_of_a_short_text_is_rejected() -> None:
    assert find_rejection_reason("A short text.", "a short text.") == "copied"
    assert find_rejection_reason("A short text.", "Few words here.") is None


def test_texts_too_long_to_rephrase_are_not_requested() -> None:
    rephraser = Rephraser(RephraseConfig(fraction=1.0), ENGINE, Characters(), seed=1)
    record = TextRecord("t", "x" * 401, ONE_OF_EACH)
    assert rephraser.build_prompt(record) == replace(record, rephrasing_drop="text too long")
    assert isinstance(rephraser.build_prompt(replace(record, text="x" * 400)), list)
    assert rephraser.build_prompt(replace(record, pairs=())) == replace(record, pairs=())


def test_truncated_and_refused_answers_are_not_rephrasings() -> None:
    rephraser = Rephraser(RephraseConfig(fraction=1.0), ENGINE, Characters(), seed=1)
    record = TextRecord("t", TEXT, ONE_OF_EACH, prompt_tokens=5, generated_tokens=7)
    accepted = rephraser.apply(record, 100, Completion(1, OTHER, 50))
    assert (accepted.rephrasing, accepted.rephrasing_drop) == (OTHER, None)
    assert (accepted.prompt_tokens, accepted.generated_tokens) == (105, 57)
    assert rephraser.apply(record, 100, Completion(1, OTHER, ENGINE.max_new_tokens)).rephrasing_drop == "unfinished"
    refused = rephraser.apply(
        record, 100, Completion(1, "", 0, failure=Failure("HTTP 400", "too long", is_refusal=True))
    )
    assert refused.rephrasing_drop == "refused by the engine: HTTP 400"
    assert refused.failure is not None


def chain(number: int, rephrasings: Sequence[str] = ("Anew.",)) -> ChainRecord:
    texts = (
        TextRecord(f"t{number}.{k}", f"Text {k}.", ONE_OF_EACH, rephrasing=one) for k, one in enumerate(rephrasings)
    )
    return ChainRecord(augmented=True, texts=tuple(texts))


@pytest.mark.parametrize("mode", ["classic", "dialog", "numbered", "inline", "next_turn"])
@pytest.mark.parametrize("qa_first", [0.0, 1.0])
def test_rephrasing_follows_its_text_in_every_mode(mode: str, qa_first: float) -> None:
    renderer = Renderer(only(mode, qa_first_fraction=qa_first), seed=3)
    rendered = renderer.render(chain(1, ["Anew zero.", "", "Anew two."])).text
    order = ["Text 0.", "Anew zero.", "Text 1.", "Text 2.", "Anew two."]
    assert [rendered.find(one) for one in order] == sorted(rendered.find(one) for one in order)
    first_question = rendered.find("What is told?")
    assert (first_question < rendered.find("Text 0.")) == bool(qa_first)
    assert qa_first or rendered.find("Anew zero.") < first_question


def test_rephrasing_templates_are_drawn_uniformly_and_change_nothing_else() -> None:
    renderer = Renderer(RenderConfig(), seed=4)
    rendered = [renderer.render(chain(number)) for number in range(4000)]
    names = Counter(one.template.rpartition("/")[2] for one in rendered)
    assert set(names) == {one.name for one in rephrasing_templates()}
    assert min(names.values()) > 150
    for number, one in enumerate(rendered[:100]):
        bare = renderer.render(chain(number, [""]))
        assert (bare.mode, bare.template, bare.qa_first) == (one.mode, one.template.rpartition("+")[0], one.qa_first)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("instruction: x\ncue: y\n", "examples"),
        ("instruction: x\ncue: ' '\nexamples: []\n", "the cue is empty"),
        ("instruction: x\ncue: y\nexamples: []\nend: z\n", "unknown field end"),
        ("instruction: x\ncue: y\nexamples: [{text: a}]\n", "rephrasing"),
        ("- a\n", "not a prompt"),
        ("a: [\n", "not a prompt"),
    ],
)
def test_prompt_files_with_other_fields_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "prompt.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_prompt(file)


def test_custom_prompt(tmp_path: Path) -> None:
    file = tmp_path / "prompt.yaml"
    file.write_text("instruction: Say it anew.\ncue: 'Anew:'\nexamples: [{text: a, rephrasing: b}]\n")
    prompt = read_prompt(file)
    assert prompt.head + prompt.render("c") == (
        "Say it anew.\n\n <CON> a </CON>\n\nAnew: b\n\n <CON> c </CON>\n\nAnew:"
    )


def test_incompatible_settings_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(tmp_path, EchoEngine(), rephrase=RephraseConfig(fraction=0.5), render=RenderConfig(stitch=True))
    assert [problem.field for problem in caught.value.problems] == ["render.stitch"]
