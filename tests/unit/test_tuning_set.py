"""The synthesizer-tuning set: layouts, gathering of pairs, held-out examples, sequences and their masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_ipt.config.tuning_set import CollectionConfig, TuningSetConfig
from megatron_ipt.errors import UserError
from megatron_ipt.lm.prompt_tokenizer import load_prompt_tokenizer
from megatron_ipt.pairs.grammar import Example, Pair, compose_pair, parse_pairs, render_context, render_pairs
from megatron_ipt.synthesizer.tuning.collections import SourceRow, read_collection
from megatron_ipt.synthesizer.tuning.gathering import gather
from megatron_ipt.synthesizer.tuning.stage import PREFIX_NAME, build_tuning_set, count_pairs

FORMATS = {
    "free form": compose_pair("Who?", "Ann."),
    "multiple choice": compose_pair("Who?", "Ann", ["Bob", "Ann"]),
    "reasoning": compose_pair("Who?", "Ann.", reasoning="Bob is away."),
    "multiple choice with reasoning": compose_pair("Who?", "Ann", ["Bob", "Ann"], "Bob is away."),
}


@pytest.mark.parametrize("pair", FORMATS.values(), ids=FORMATS)
def test_every_format_round_trips_through_the_grammar(pair: Pair) -> None:
    assert parse_pairs(render_pairs([pair])).pairs == (pair,)
    assert pair.stem == "Who?"
    assert pair.conclusion.startswith("Ann")
    assert pair.options == (("Bob", "Ann") if "Options" in pair.question else ())
    assert pair.reasoning == ("Bob is away." if "Therefore" in pair.answer else None)


def test_conclusion_that_is_not_an_option_is_dropped() -> None:
    pair = compose_pair("Who?", "Eve", ["Bob", "Ann"], "Neither.")
    assert parse_pairs(render_pairs([pair])).pairs == ()


def test_conclusion_without_reasoning_is_counted_as_a_plain_answer() -> None:
    bare = compose_pair("Why?", "It rains.", reasoning="")
    assert count_pairs([Example("Rain.", (bare, FORMATS["reasoning"]))]) == {
        "pairs": 2,
        "free_form": 1,
        "free_form_reasoning": 1,
    }


def write(file: Path, *rows: object) -> list[str]:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(file)]


def test_layouts(tmp_path: Path) -> None:
    public = {"context": "C", "QA_list": [{"Q": "q1", "A": "a1"}, {"Q": "q2", "A": "a2"}], "rc_name": "squad"}
    columns = {"passage": "C", "ask": "q", "say": "b", "choices": ["a", "b"], "why": "so"}
    squad = {"data": [{"paragraphs": [{"context": "C", "qas": [{"question": "q", "answers": [{"text": "a"}]}]}]}]}
    given = [
        CollectionConfig(name="x", input=write(tmp_path / "p.jsonl", public), set_key="rc_name"),
        CollectionConfig(
            name="y",
            input=write(tmp_path / "c.jsonl", columns),
            format="columns",
            context_key="passage",
            question_key="ask",
            answer_key="say",
            options_key="choices",
            reasoning_key="why",
        ),
        CollectionConfig(name="z", input=write(tmp_path / "s.json", squad), format="squad"),
    ]
    found = [(one.set, one.context, one.pairs) for config in given for one in read_collection(config, "fail", print)]
    assert found == [
        ("squad", "C", (Pair("q1", "a1"), Pair("q2", "a2"))),
        ("y", "C", (compose_pair("q", "b", ["a", "b"], "so"),)),
        ("z", "C", (Pair("q", "a"),)),
    ]


def test_parquet_file_in_the_published_layout(tmp_path: Path) -> None:
    row = {"context": "C", "QA_list": [{"Q": "q1", "A": "a1"}, {"Q": "q2", "A": "a2"}], "rc_name": "squad"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    config = CollectionConfig(name="x", input=[str(tmp_path / "p.parquet")], set_key="rc_name")
    pairs = (Pair("q1", "a1"), Pair("q2", "a2"))
    assert list(read_collection(config, "fail", print)) == [SourceRow("squad", "C", pairs)]


NESTED = {  # the shapes of SQuAD, CoQA, QuAC, Natural Questions and ARC as tables
    "answers that are accepted": (
        {"question": "q", "answers": {"text": ["a", "the a"], "answer_start": [3, 1]}},
        {"answer_key": "answers.text"},
        (Pair("q", "a"),),
    ),
    "no answer": ({"question": "q", "answers": {"text": []}}, {"answer_key": "answers.text"}, ()),
    "objects": (
        {"question": "q", "found": [{"text": "a"}, {"text": "b"}]},
        {"answer_key": "found.text"},
        (Pair("q", "a"),),
    ),
    "lists side by side": (
        {"question": ["q1", "q2"], "answers": {"input_text": ["a1", "a2"], "answer_start": [0, 1]}},
        {"answer_key": "answers.input_text"},
        (Pair("q1", "a1"), Pair("q2", "a2")),
    ),
    "lists of accepted answers": (
        {"question": ["q1", "q2"], "answers": {"texts": [["a1", "A1"], []]}},
        {"answer_key": "answers.texts"},
        (Pair("q1", "a1"),),
    ),
    "options": (
        {"question": "q", "choices": {"text": ["a", "b"]}, "right": {"text": "b"}},
        {"answer_key": "right.text", "options_key": "choices.text"},
        (compose_pair("q", "b", ["a", "b"]),),
    ),
    "a name with a point": ({"question": "q", "answers.text": "a"}, {"answer_key": "answers.text"}, (Pair("q", "a"),)),
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(("row", "keys", "pairs"), NESTED.values(), ids=NESTED)
def test_nested_fields(
    tmp_path: Path, kind: str, row: dict[str, object], keys: dict[str, str], pairs: tuple[Pair, ...]
) -> None:
    row = {"page": {"text": "C"}, **row}
    file = tmp_path / f"rows.{kind}"
    pq.write_table(pa.Table.from_pylist([row]), file) if kind == "parquet" else write(file, row)
    given = {"format": "columns", "context_key": "page.text", "question_key": "question", **keys}
    config = CollectionConfig(name="x", input=[str(file)], **given)
    assert list(read_collection(config, "fail", print)) == [SourceRow("x", "C", pairs)]


def test_squad_paragraph_is_one_row(tmp_path: Path) -> None:
    qas = [
        {"question": "q1", "answers": [{"text": "a1", "answer_start": 0}]},
        {"question": "q2", "answers": [], "is_impossible": True},
    ]
    files = write(tmp_path / "p.jsonl", {"context": "C", "qas": qas})
    config = CollectionConfig(
        name="x", input=files, pairs_key="qas", question_key="question", answer_key="answers.text"
    )
    assert list(read_collection(config, "fail", print)) == [SourceRow("x", "C", (Pair("q1", "a1"),))]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answers": {"span": "a"}}, "no field 'text'"),
        ({"answers": "a"}, "field 'text' is not within an object"),
        ({"answers": {"text": [7]}}, "'answers.text' is not text"),
        ({"answers": {"text": ["a"]}, "Q": ["q1", "q2"]}, "not lists of equal length"),
    ],
)
def test_missing_nested_field_is_reported(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    files = write(tmp_path / "c.jsonl", {"context": "C", "Q": "q", **row})
    config = CollectionConfig(name="x", input=files, format="columns", answer_key="answers.text")
    with pytest.raises(UserError, match=reason):
        list(read_collection(config, "fail", print))


@pytest.mark.parametrize("layout", ["columns", "squad"])
def test_tags_in_a_question_are_escaped(tmp_path: Path, layout: str) -> None:
    squad = {"data": [{"paragraphs": [{"context": "C", "qas": [{"question": "<ANS>", "answers": [{"text": "a"}]}]}]}]}
    row = squad if layout == "squad" else {"context": "C", "Q": "<ANS>", "A": "a"}
    config = CollectionConfig(name="x", input=write(tmp_path / "f.json", row), format=layout)
    [source] = read_collection(config, "fail", print)
    assert source.pairs == (Pair("< ANS >", "a"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"context": "C", "Q": "q", "A": "a", "set": "s", "choices": "abc"}, "'choices' is not a list"),
        ({"context": "C", "Q": "q", "A": "a", "set": None}, "'set' is not text"),
    ],
)
def test_field_of_the_wrong_type_is_a_bad_row(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    files = write(tmp_path / "c.jsonl", row)
    config = CollectionConfig(name="x", input=files, format="columns", set_key="set", options_key="choices")
    with pytest.raises(UserError, match=reason):
        list(read_collection(config, "fail", print))


def test_contexts_with_most_pairs_are_selected() -> None:
    sources = [SourceRow("s", f"C{number}", (Pair(f"q{k}", "a"),)) for number in range(9) for k in range(number)]
    config = TuningSetConfig(
        collections=[CollectionConfig(name="s", input=[])],
        output="",
        tokenizer="",
        max_examples_per_set=3,
        min_pairs=2,
    )
    gathered = gather(sources, config)
    assert {example.text for example in gathered.training["s"]} == {"C6", "C7", "C8"}
    assert gathered.left_out["context with too few pairs"] == 1
    assert gathered.left_out["context beyond the most of a set"] == 4


def test_row_with_another_layout_is_reported(tmp_path: Path) -> None:
    good = {"context": "C", "QA_list": []}
    config = CollectionConfig(name="x", input=write(tmp_path / "p.jsonl", good, {"context": "C", "pairs": []}))
    with pytest.raises(UserError, match=r"p\.jsonl:2"):
        list(read_collection(config, "fail", print))
    skipped: list[object] = []
    assert len(list(read_collection(config, "skip", skipped.append))) == 1
    assert len(skipped) == 1
    other = CollectionConfig(name="x", input=write(tmp_path / "q.jsonl", {"context": "C"}, {"passage": "P"}))
    with pytest.raises(UserError, match="none of its rows has the layout"):
        list(read_collection(other, "skip", skipped.append))


@pytest.fixture(scope="module")
def tuning_set(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TuningSetConfig, dict]:
    """Forty contexts of set `a` (one in three rows), ten of the held-out set `b`, three of which are in `a`."""
    folder = tmp_path_factory.mktemp("tuning")
    words = " ".join(f"word{number}" for number in range(30))

    def row(name: str, number: int, first: int = 0) -> dict[str, object]:
        pairs = [{"Q": f"Question {first + k} of {number}?", "A": f"Answer {k}."} for k in range(number % 3 + 1)]
        return {"set": name, "context": f"Context {number}. {words}", "QA_list": pairs}

    rows = [row("a", number) for number in range(40)] + [row("a", 0), row("a", 0, first=7)]
    rows += [row("b", number) for number in range(37, 47)] + [{"set": "a", "context": "x " * 2000, "QA_list": []}]
    rows.append({"set": "a", "context": "x " * 2000, "QA_list": [{"Q": "Long?", "A": "Yes."}]})
    config = TuningSetConfig(
        collections=[CollectionConfig(name="x", input=write(folder / "rows.jsonl", *rows), set_key="set")],
        output=str(folder / "set"),
        tokenizer=str(quickstart_inputs / "smollm2"),
        seq_length=512,
        heldout_sets=["b"],
        heldout_contexts=5,
    )
    return config, build_tuning_set(config)


def documents(prefix: Path) -> np.ndarray:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(str(prefix), multimodal=False)
    return np.stack([dataset[number] for number in range(len(dataset))])


def test_sequences_hold_consecutive_examples_with_loss_on_pairs(
    tuning_set: tuple[TuningSetConfig, dict],
) -> None:
    config, counts = tuning_set
    tokenizer = load_prompt_tokenizer(config.tokenizer)
    folder = Path(config.output)
    ids, masks = documents(folder / PREFIX_NAME), documents(folder / f"{PREFIX_NAME}_loss_mask")
    assert ids.shape == masks.shape == (counts["sequences"], 512)
    seen: dict[str, int] = {}
    (bos,), (eos,) = tokenizer.bos_ids, tokenizer.eos_ids
    for sequence, mask in zip(ids, masks, strict=True):
        starts = [place for place, token in enumerate(sequence) if token == bos]
        for start, end in zip(starts, [*starts[1:], 512], strict=True):
            learnt = np.flatnonzero(mask[start:end]) + start
            context = tokenizer.decode(sequence[start + 1 : learnt[0]].tolist())
            assert context.startswith(" <CON> Context") and context.endswith("</CON>\n\n")
            assert (np.diff(learnt) == 1).all() and sequence[learnt[-1]] == eos
            answer = tokenizer.decode(sequence[learnt[:-1]].tolist())
            parsed = parse_pairs(answer)
            assert render_pairs(parsed.pairs) == answer and not parsed.drops
            text = context.removeprefix(" <CON> ").removesuffix(" </CON>\n\n")
            assert sequence[start + 1 : learnt[0]].tolist() == tokenizer.encode(render_context(text))
            seen[text.split(".")[0]] = len(parsed.pairs)
            after = sequence[learnt[-1] + 1 : end]
            assert (after == eos).all() and not mask[learnt[-1] + 1 : end].any()
    held = {f"Context {number}" for number in (37, 38, 39)} | heldout(folder / "heldout_contexts.jsonl")
    assert set(seen) == {f"Context {number}" for number in range(40)} - held
    assert seen.get("Context 0", 2) == 2  # one pair repeated, another in a separate row
    assert all(seen[f"Context {n}"] == n % 3 + 1 for n in range(1, 37) if f"Context {n}" in seen)


def heldout(file: Path) -> set[str]:
    return {json.loads(line)["context"].split(".")[0] for line in file.read_text().splitlines()}


def test_held_out_and_left_out_examples_are_counted(tuning_set: tuple[TuningSetConfig, dict]) -> None:
    config, counts = tuning_set
    assert heldout(Path(config.output) / "heldout_sets.jsonl") == {f"Context {number}" for number in range(37, 47)}
    assert len(heldout(Path(config.output) / "heldout_contexts.jsonl")) == 5
    assert counts["left_out"]["repeated question"] == 1
    assert counts["left_out"]["context longer than the sequence"] == 1
    assert build_tuning_set(config) == counts


def test_same_seed_gives_same_bytes_and_another_seed_another_order(
    tuning_set: tuple[TuningSetConfig, dict], tmp_path: Path
) -> None:
    config, _ = tuning_set
    for name, seed in (("again", config.seed), ("other", config.seed + 1)):
        build_tuning_set(config.model_copy(update={"output": str(tmp_path / name), "seed": seed}))
    for file in Path(config.output).glob("*.[bij]*"):
        if file.name != "manifest.json":
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    data = f"{PREFIX_NAME}.bin"
    assert (tmp_path / "other" / data).read_bytes() != (tmp_path / "again" / data).read_bytes()


def test_swapped_files_are_not_the_same_set(quickstart_inputs: Path, tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{name}.jsonl", {"context": name, "QA_list": [{"Q": "q", "A": "a"}]}) for name in ("f", "g")
    ]

    def config(first: list[str], second: list[str]) -> TuningSetConfig:
        return TuningSetConfig(
            collections=[CollectionConfig(name="one", input=first), CollectionConfig(name="two", input=second)],
            output=str(tmp_path / "set"),
            tokenizer=str(quickstart_inputs / "smollm2"),
            heldout_sets=["two"],
        )

    build_tuning_set(config(*files))
    with pytest.raises(UserError, match="another run's result"):
        build_tuning_set(config(*reversed(files)))


def test_tokenizer_without_eos_is_refused(tuning_set: tuple[TuningSetConfig, dict], tmp_path: Path) -> None:
    config, _ = tuning_set
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((Path(config.tokenizer) / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="no EOS"):
        build_tuning_set(config.model_copy(update={"tokenizer": str(folder), "output": str(tmp_path / "x")}))
    assert not (tmp_path / "x").exists()


def test_wrong_field_leaves_no_folder_behind(tuning_set: tuple[TuningSetConfig, dict], tmp_path: Path) -> None:
    collection = tuning_set[0].collections[0].model_copy(update={"pairs_key": "pairs"})
    with pytest.raises(UserError, match="QA_list"):
        build_tuning_set(tuning_set[0].model_copy(update={"collections": [collection], "output": str(tmp_path / "x")}))
    assert not (tmp_path / "x").exists()


def test_unknown_heldout_set_is_refused(tuning_set: tuple[TuningSetConfig, dict], tmp_path: Path) -> None:
    config = TuningSetConfig(**{**vars(tuning_set[0]), "output": str(tmp_path / "x"), "heldout_sets": ["c"]})
    with pytest.raises(UserError, match="one of a, b"):
        build_tuning_set(config)
