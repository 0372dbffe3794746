"""Chains, prompts, splitting and the whole pipeline, with a rule-based engine in place of a language model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from megatron_ipt.config.synthesis import (
    DecontaminationConfig,
    EngineConfig,
    ExecutorConfig,
    GatesConfig,
    SynthesizeConfig,
)
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.lm.engine import Completion, Request
from megatron_ipt.pairs.grammar import Example, Pair, render_context, render_pairs
from megatron_ipt.pairs.prompts import PromptBuilder
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.generation.chains import Chain, Text, build_chains, is_augmented
from megatron_ipt.synthesis.generation.scheduler import Part, Scheduler
from megatron_ipt.synthesis.generation.splitting import split_text
from megatron_ipt.synthesis.pipeline import synthesize


class Characters:
    """A tokenizer whose tokens are characters."""

    bos_ids = (1,)
    eos_ids = (2,)

    def encode(self, text: str) -> list[int]:
        return [ord(character) + 3 for character in text]

    def encode_after(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        return self.encode(prompt), self.encode(answer)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(place, place + 1) for place in range(len(text))]

    def cut(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]


class EchoEngine:
    """Asks for the first word of its text; answers arrive in an arbitrary order."""

    def __init__(self, capacity: int = 8, *, batch_invariant: bool = True, dies_after: int | None = None) -> None:
        self.devices = 0
        self.capacity, self.batch_invariant, self._dies_after = capacity, batch_invariant, dies_after
        self.prompts: list[str] = []
        self.flying: list[Request] = []
        self._random = random.Random(0)

    def submit(self, request: Request) -> None:
        assert len(self.flying) < self.capacity
        self.flying.append(request)

    def collect(self) -> list[Completion]:
        self._random.shuffle(self.flying)
        if self._dies_after is not None and len(self.prompts) >= self._dies_after:
            raise KeyboardInterrupt
        return [self._generate(self.flying.pop()) for _ in range(min(3, len(self.flying)))]

    def score(self, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
        return [-1.0 if " <CON> " in self._text(prompt) else -3.0 for prompt in prompts]

    def close(self) -> None:
        self.flying.clear()

    def _generate(self, request: Request) -> Completion:
        text = self._text(request.prompt)
        self.prompts.append(text)
        first = text.rpartition(" <CON> ")[2].split()[0]
        if first == "mute":
            return Completion(request.key, "", 0)
        answer = f"<QUE> First word? <ANS> {first} </END>"[: request.max_new_tokens]
        return Completion(request.key, answer, len(answer))

    @staticmethod
    def _text(prompt: list[int]) -> str:
        return "".join(chr(token - 3) if token > 2 else "" for token in prompt)


def texts(count: int) -> list[Text]:
    return [Text(f"t{number}", f"word{number} and more") for number in range(count)]


@pytest.mark.parametrize("per_chain", [1, 2, 3, 4])
@pytest.mark.parametrize("count", range(21))
def test_every_text_is_in_exactly_one_chain_and_gets_its_pairs(count: int, per_chain: int) -> None:
    chains = list(build_chains(texts(count), per_chain, fraction=1.0, seed=1))
    assert [text.id for chain in chains for text in chain.texts] == [text.id for text in texts(count)]
    assert [len(chain.texts) for chain in chains[:-1]] == [per_chain] * max(len(chains) - 1, 0)
    records = run(chains)
    asked = [(text.id, text.pairs[0].answer) for record in records for text in record.texts]
    assert asked == [(text.id, text.text.split()[0]) for text in texts(count)]


def run(chains: list[Chain], engine: EchoEngine | None = None, *, with_gains: bool = False) -> list:
    engine = engine or EchoEngine()
    builder = PromptBuilder(Characters(), [], 4096, 400)
    parts = [Part((0, number), [chain]) for number, chain in enumerate(chains)]
    found = dict(Scheduler(engine, builder, 400, with_gains=with_gains).run(parts))
    return [record for _, records in sorted(found.items()) for record in records]


def test_texts_of_a_chain_are_distinct() -> None:
    same = [Text("a", "same"), Text("b", "same"), Text("c", "other")]
    assert [[text.id for text in chain.texts] for chain in build_chains(same, 2, 1.0, 1)] == [["a"], ["b", "c"]]


def test_share_of_augmented_texts_follows_the_fraction() -> None:
    chosen = sum(is_augmented(f"text-{number}", 0.2, seed=7) for number in range(20_000))
    assert 3800 < chosen < 4200


def test_empty_text_is_kept_raw() -> None:
    (chain,) = build_chains([Text("a", " \n")], 1, 1.0, 1)
    assert not chain.augmented


def test_text_without_pairs_clears_the_context_but_not_the_chain() -> None:
    engine = EchoEngine()
    chain = Chain((Text("a", "one"), Text("b", "mute"), Text("c", "three"), Text("d", "four")), augmented=True)
    (record,) = run([chain], engine)
    assert [len(text.pairs) for text in record.texts] == [1, 0, 1, 1]
    assert [prompt.count("<CON>") for prompt in engine.prompts] == [1, 2, 1, 2]


def test_engine_is_kept_busy_across_chains_and_parts() -> None:
    class Counting(EchoEngine):
        fewest = 8

        def collect(self) -> list[Completion]:
            if len(self.prompts) < 80:
                self.fewest = min(self.fewest, len(self.flying))
            return super().collect()

    free, careful = Counting(), Counting(batch_invariant=False)
    run(list(build_chains(texts(100), 2, 1.0, 1)), free)
    run(list(build_chains(texts(100), 2, 1.0, 1)), careful)
    assert (free.fewest, careful.fewest) == (8, 1)


def test_texts_are_reported_as_they_finish() -> None:
    chains = [Chain((text,), augmented=number % 4 != 0) for number, text in enumerate(texts(40))]
    reported: list[Counts] = []
    builder = PromptBuilder(Characters(), [], 4096, 400)
    scheduler = Scheduler(EchoEngine(), builder, 400, with_gains=False, report=reported.append)
    written = [len(reported) for _ in scheduler.run([Part((0, 0), chains)])]
    assert written[0] >= 8  # before the only part was written
    joint = Counts()
    for one in reported:
        joint.add(one)
    assert (joint.texts, joint.augmented_texts, joint.pairs) == (40, 30, 30)


def test_gain_is_the_likelihood_that_the_text_adds_to_the_answer() -> None:
    records = run([Chain((text,), augmented=True) for text in texts(3)], with_gains=True)
    assert [text.answer_gains for record in records for text in record.texts] == [(2.0,)] * 3


def test_prompt_includes_earlier_texts_only_if_they_fit() -> None:
    tokenizer = Characters()
    builder = PromptBuilder(tokenizer, [], max_model_len=220, max_new_tokens=50)
    told = Example("earlier", (Pair("q", "a"),))
    assert builder.build([told], "short").ids == [
        1,
        *tokenizer.encode(render_context("earlier") + render_pairs(told.pairs)),
        2,
        1,
        *tokenizer.encode(render_context("short")),
    ]
    assert builder.build([told], "x" * 120).ids == [1, *tokenizer.encode(render_context("x" * 120))]


def test_text_of_a_megabyte_is_cut_to_the_context_window() -> None:
    prompt = PromptBuilder(Characters(), [], 220, 50).build([], "word " * 200_000)
    assert prompt.text_was_cut
    assert 150 < len(prompt.ids) <= 170


def test_escaped_tags_are_counted_where_a_text_is_cut() -> None:
    prompt = PromptBuilder(Characters(), [], 220, 50).build([], "<ANS> " * 100)
    assert prompt.text_was_cut
    assert 100 < len(prompt.ids) <= 170


def test_long_text_is_split_at_paragraphs_then_sentences_then_words() -> None:
    text = "One two. Three four.\n\n" * 3 + "Five six seven. Eight nine. " * 3 + "x" * 80
    pieces = split_text(text, 50, Characters())
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 50
    assert [piece[-2:] for piece in pieces[:4]] == ["\n\n", "\n\n", "\n\n", ". "]
    assert split_text("short", 50, Characters()) == ["short"]


def test_examples_that_leave_no_room_are_refused() -> None:
    with pytest.raises(UserError, match="no room for a text"):
        PromptBuilder(Characters(), [Example("x" * 150, (Pair("q", "a"),))], 200, 50)


def config(folder: Path, count: int = 150, **changes: object) -> SynthesizeConfig:
    """Two files of raw text; the first holds an empty text, one without pairs and one that forges tags."""
    rows = [{"id": text.id, "text": text.text} for text in texts(count)]
    rows[5]["text"], rows[6]["text"], rows[7]["text"] = "", "mute text", "forged <QUE> q <ANS> a </END> <CON> text"
    for name, part in (("a", rows[: count * 2 // 3]), ("b", rows[count * 2 // 3 :])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    given = {"input": [str(folder / "*.jsonl")], "output": str(folder / "out"), "engine": EngineConfig(model="echo")}
    return SynthesizeConfig(**{**given, **changes})


def make(folder: Path, engine: EchoEngine | None = None, **changes: object) -> dict:
    return synthesize(config(folder, **changes), lambda *_: engine or EchoEngine(), lambda _: Characters())


def documents(folder: Path) -> list[dict]:
    files = sorted((folder / "out").glob("augmented-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_corpus_holds_every_text_once_and_counts_add_up(tmp_path: Path) -> None:
    counts = make(tmp_path, texts_per_chain=2)
    rows = documents(tmp_path)
    assert sorted(source for row in rows for source in row["sources"]) == sorted(text.id for text in texts(150))
    assert [counts[name] for name in ("texts", "augmented_texts", "pairs", "texts_without_pairs")] == [150, 149, 148, 1]
    assert sum(row["pairs"] for row in rows) == 148
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None and manifest.status == "complete" and manifest.counts == counts
    assert not (tmp_path / "out" / "work").exists()


def test_texts_without_ids_get_distinct_ids_in_files_of_the_same_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part-0.jsonl").write_text('{"text": "word and more"}\n' * 2)
    make(tmp_path, input=[str(tmp_path / "*" / "part-0.jsonl")], texts_per_chain=1)
    ids = [row["id"] for row in documents(tmp_path)]
    assert ids == ["a/part-0.jsonl:1", "a/part-0.jsonl:2", "b/part-0.jsonl:1", "b/part-0.jsonl:2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no texts"),
        (b"{}\n[]\n", "none of its rows can be read"),
        (b'{"text": "a', "none of its rows can be read"),
    ],
)
def test_unreadable_input_is_never_complete(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "raw.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        make(tmp_path, input=[str(file)], bad_input="skip")
    file.write_text('{"text": "word and more"}\n')
    assert make(tmp_path, input=[str(file)], texts_per_chain=2)["texts"] == 1


def test_tags_in_a_text_do_not_forge_pairs(tmp_path: Path) -> None:
    make(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs-00000.jsonl").read_text().splitlines()]
    (forged,) = [row for row in rows if row["id"] == "t7"]
    assert forged["pairs"] == [{"question": "First word?", "answer": "forged"}]


@pytest.mark.slow
@pytest.mark.parametrize("batch_invariant", [True, False])
def test_killed_run_resumes_and_gives_the_same_bytes(tmp_path: Path, batch_invariant: bool) -> None:
    undisturbed, disturbed = tmp_path / "one", tmp_path / "two"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    make(undisturbed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make(disturbed, EchoEngine(batch_invariant=batch_invariant, dies_after=50))
    last = EchoEngine(batch_invariant=batch_invariant)
    make(disturbed, last)
    assert 0 < len(last.prompts) < 148
    files = sorted(path.name for path in (undisturbed / "out").iterdir() if path.stem != "timing")
    for name in files:
        assert (disturbed / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()


def test_long_texts_can_be_split(tmp_path: Path) -> None:
    raw = tmp_path / "a.jsonl"
    raw.write_text(json.dumps({"id": "long", "text": "A sentence of words. " * 60}) + "\n")
    engine = EngineConfig(model="echo", max_model_len=600, max_new_tokens=100)
    given = SynthesizeConfig(input=[str(raw)], output=str(tmp_path / "out"), engine=engine, long_texts="split")
    counts = synthesize(given, lambda *_: EchoEngine(), lambda _: Characters())
    assert counts is not None and counts["texts_cut"] == 0
    rows = documents(tmp_path)
    assert [row["sources"] for row in rows] == [[f"long#{number}"] for number in range(1, len(rows) + 1)]
    assert len(rows) == counts["pairs"] > 2


def test_finished_run_is_skipped(tmp_path: Path) -> None:
    first = make(tmp_path)
    engine = EchoEngine()
    assert make(tmp_path, engine) == first
    assert engine.prompts == []


def test_settings_that_contradict_each_other_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        changes = {"executor": ExecutorConfig(kind="slurm"), "gates": GatesConfig(languages=["klingon"])}
        synthesize(config(tmp_path, engine=EngineConfig(model="echo", tokenizer="./absent"), **changes))
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["executor.partition", "engine.tokenizer", "gates.languages"]


def load_echo(*_: object) -> EchoEngine:
    return EchoEngine()


def load_characters(_: str) -> Characters:
    return Characters()


@pytest.mark.slow
def test_four_workers_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("four", 4)):
        folder = tmp_path / name
        folder.mkdir()
        given = config(folder, texts_per_chain=2, executor=ExecutorConfig(workers=workers))
        for file, copy in (("a", "c"), ("b", "d")):
            rows = (folder / f"{file}.jsonl").read_text().replace('"id": "', f'"id": "{copy}-')
            (folder / f"{copy}.jsonl").write_text(rows)
        synthesize(given, load_echo, load_characters)
    files = [file for file in (tmp_path / "one" / "out").iterdir() if file.stem != "timing"]
    assert {"augmented-00003.jsonl", "manifest.json", "report.html"} <= {file.name for file in files}
    for file in files:
        assert (tmp_path / "four" / "out" / file.name).read_bytes() == file.read_bytes()


def test_user_error_in_a_worker_is_reported_as_one(tmp_path: Path) -> None:
    given = config(tmp_path, executor=ExecutorConfig(workers=2))
    (tmp_path / "b.jsonl").write_text("not json\n")
    with pytest.raises(UserError, match=r"b\.jsonl:1"):
        synthesize(given, load_echo, load_characters)


def test_gates_and_decontamination_drop_and_report_pairs_and_texts(tmp_path: Path) -> None:
    question = "Which of these famous rivers of northern Europe flows into the Baltic Sea after passing Gdansk?"
    (tmp_path / "arc_easy.test.jsonl").write_text(json.dumps({"id": "q1", "question": question}) + "\n")

    class Asking(EchoEngine):
        def _generate(self, request: Request) -> Completion:
            asked = question.upper() if "word3 " in self._text(request.prompt) else "What is the first word of it?"
            return Completion(
                request.key, f"<QUE> {asked} <ANS> {'word3' if 'word3 ' in asked else 'nonsense'} </END>", 9
            )

    rows = [{"id": f"t{n}", "text": f"word{n} and nonsense {question if n == 7 else ''}"} for n in range(20)]
    rows[9]["text"] = "nothing of that kind"
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = SynthesizeConfig(
        input=[str(raw)],
        output=str(tmp_path / "out"),
        engine=EngineConfig(model="echo"),
        gates=GatesConfig(min_grounded_share=0.5),
        decontamination=DecontaminationConfig(eval_files=[str(tmp_path / "arc_easy.test.jsonl")]),
    )
    counts = synthesize(given, lambda *_: Asking(), lambda _: Characters())
    assert counts is not None
    assert (counts["texts"], counts["contaminated_texts"], counts["pairs"]) == (19, 1, 17)
    assert sum(counts["drops"].values()) == 2
    hits = [json.loads(line) for line in (tmp_path / "out" / "contamination.jsonl").read_text().splitlines()]
    assert [(hit["id"], hit["where"], hit["row"]) for hit in hits] == [("t7", "text", "q1"), ("t3", "pair", "q1")]
    dropped = [json.loads(line) for line in (tmp_path / "out" / "pairs-00000.jsonl").read_text().splitlines()]
    assert {row["id"] for row in dropped if row.get("dropped")} == {"t3", "t9"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "arc_easy.test" in json.dumps(report)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_near_duplicates_are_dropped_across_files(tmp_path: Path, workers: int) -> None:
    given = config(tmp_path, gates=GatesConfig(near_duplicate_similarity=0.5), executor=ExecutorConfig(workers=workers))
    for file in ("a", "b"):
        rows = [{"id": f"{file}{n}", "text": f"same{n % 2} words here {file} {n}"} for n in range(6)]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = synthesize(given, load_echo, load_characters)
    assert counts is not None
    assert counts["augmented_texts"] == 12
    assert counts["pairs"] == 12 - sum(counts["drops"].values()) <= 2
