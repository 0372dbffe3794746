"""Chat sets: layouts of rows, packing, held-out conversations, and bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_formats import MISTRAL, mistral, plain, restated
from small_tokenizers import write_gpt2_like
from transformers import PreTrainedTokenizerFast

from megatron_ipt.chat.stage import HELDOUT_NAME, PREFIX_NAME, build_chat_set
from megatron_ipt.cli import build_chat_set as command
from megatron_ipt.config.chat_set import ChatSetConfig
from megatron_ipt.corpus.indexed_writer import BEGINS_DOCUMENT, HAS_LOSS
from megatron_ipt.errors import UserError

CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": ({"messages": CHAT}, {}),
    "messages after the last answer": ({"messages": [*CHAT, {"role": "user", "content": "Why?"}]}, {}),
    "prompt and completion": ({"prompt": "Who?", "completion": "Ann."}, {}),
    "prompt and response": ({"prompt": "Who?", "response": "Ann."}, {"completion_key": "response"}),
    "prompt and completion as messages": ({"prompt": CHAT[:1], "completion": CHAT[1:]}, {}),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ann."}]},
        {"messages_key": "conversations", "role_key": "from", "content_key": "value"},
    ),
    "nulls": ({"messages": [{**message, "tool_calls": None} for message in CHAT], "prompt": None, "tools": None}, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a template."""
    folder = write_gpt2_like(tmp_path_factory.mktemp("tokenizer"))
    (folder / "chat_template.jinja").write_text(plain(MISTRAL))
    return folder


def build(tokenizer: Path, output: Path, rows: list[Any], kind: str = "jsonl", **settings: Any) -> dict[str, Any]:
    file = output.with_name(f"rows.{kind}")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"input": [str(file)], "output": str(output), "tokenizer": str(tokenizer), "seq_length": 64, **settings}
    return build_chat_set(ChatSetConfig(**given))


def documents(output: Path, suffix: str = "") -> np.ndarray:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(str(output / f"{PREFIX_NAME}{suffix}"), multimodal=False)
    return np.stack([dataset[number] for number in range(len(dataset))])


@pytest.mark.parametrize("kind_of_file", ["jsonl", "parquet"])
@pytest.mark.parametrize(("row", "settings"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_rows_give_the_same_set(
    row: dict[str, Any], settings: dict[str, Any], kind_of_file: str, folder: Path, tmp_path: Path
) -> None:
    counts = build(folder, tmp_path / "set", [row], kind_of_file, **settings)
    assert (counts["conversations"], counts["sequences"], counts["turn_ends"]) == (1, 1, {"</s>": 401})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids, mask = restated(tokenizer, mistral(CHAT))
    padding = 64 - len(ids)
    assert documents(tmp_path / "set").tolist() == [[*ids, *[tokenizer.eos_token_id] * padding]]
    found = documents(tmp_path / "set", "_loss_mask")
    assert (found & HAS_LOSS).tolist() == [[*mask, *[0] * padding]]
    assert (found & BEGINS_DOCUMENT).nonzero()[1].tolist() == [0]
    assert counts["tokens_with_loss"] == sum(mask)


def numbered(count: int, turns: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": role, "content": f"{role} {turn} of {number}."}
                for turn in range(turns)
                for role in ("user", "assistant")
            ]
        }
        for number in range(count)
    ]


def test_every_conversation_is_whole_in_one_sequence_or_held_out(folder: Path, tmp_path: Path) -> None:
    rows = numbered(30)
    again = {"messages": [rows[0]["messages"][0], {"role": "assistant", "content": "Something else."}]}
    counts = build(folder, tmp_path / "set", [*rows, again], seq_length=150, heldout_conversations=10)
    output, tokenizer = tmp_path / "set", PreTrainedTokenizerFast.from_pretrained(folder)
    heldout = [json.loads(line) for line in (output / HELDOUT_NAME).read_text().splitlines()]
    assert len(heldout) == counts["heldout_conversations"] == 10
    prompts = {row["messages"][0]["content"] for row in heldout}
    expected = [
        restated(tokenizer, mistral(row["messages"]))
        for row in [*rows, again]
        if row["messages"][0]["content"] not in prompts
    ]
    left_out = counts["left_out"].get("prompt that is held out", 0)
    assert counts["conversations"] == len(expected) == 21 - left_out
    ids, masks = documents(output), documents(output, "_loss_mask")
    found = []
    for sequence, mask in zip(ids, masks, strict=True):
        starts = (mask & BEGINS_DOCUMENT).nonzero()[0].tolist()
        for start, end in zip(starts, [*starts[1:], len(sequence)], strict=True):
            length = int((mask[start:end] & HAS_LOSS).nonzero()[0][-1]) + 1
            assert (sequence[start + length : end] == tokenizer.eos_token_id).all()
            found.append(
                (sequence[start : start + length].tolist(), (mask[start : start + length] & HAS_LOSS).tolist())
            )
    assert sorted(found) == sorted(expected)
    assert (output / "chat_template.jinja").read_text() == plain(MISTRAL)


def test_conversation_that_is_too_long_ends_with_an_answer_that_fits(folder: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    [row] = numbered(1, turns=5)
    lengths = [len(restated(tokenizer, mistral(row["messages"][: 2 * turns]))[0]) for turns in range(1, 6)]
    counts = build(folder, tmp_path / "set", [row], seq_length=lengths[2] + 1)
    assert counts["left_out"] == {"answer beyond the sequence": 2}
    kept, mask = restated(tokenizer, mistral(row["messages"][:6]))
    assert documents(tmp_path / "set").tolist() == [[*kept, tokenizer.eos_token_id]]
    assert (documents(tmp_path / "set", "_loss_mask") & HAS_LOSS).tolist() == [[*mask, 0]]

    (tmp_path / "more").mkdir()
    counts = build(
        folder, tmp_path / "more" / "set", [row, {"prompt": "q", "completion": "a"}], seq_length=lengths[0] - 1
    )
    assert (counts["conversations"], counts["left_out"]) == (1, {"conversation longer than the sequence": 1})


def test_same_seed_gives_same_bytes_and_another_seed_another_order(folder: Path, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        build(folder, tmp_path / name / "set", numbered(20), seed=seed)
        contents.append((tmp_path / name / "set" / f"{PREFIX_NAME}.bin").read_bytes())
    assert contents[0] == contents[1] != contents[2]


BAD_ROWS: dict[str, tuple[Any, str]] = {
    "other fields": ({"text": "x"}, "neither 'messages' nor 'prompt' and 'completion', but 'text'"),
    "not a list": ({"messages": "x"}, "field 'messages' is not a list of messages"),
    "unknown role": ({"messages": [{"role": "asistant", "content": "x"}]}, "'asistant', which is none of system"),
    "no text": ({"messages": [{"role": "user", "content": ["x"]}]}, "field 'content' of a message is not text"),
    "no answer": ({"messages": CHAT[:1]}, "it has no answer of the assistant"),
    "an empty answer": ({"prompt": "x", "completion": " "}, "an answer of the assistant is empty"),
    "tools": ({"messages": CHAT, "tools": "{"}, "field 'tools' is not JSON"),
    "noncharacters": ({"prompt": "x", "completion": "\U0010fffe0\U0010fffe"}, "U[+]10FFFE or U[+]10FFFF"),
    "rejected": (
        {"messages": [{"role": "tool", "content": "x"}, *CHAT]},
        "the chat template rejects it: no tools here",
    ),
    "not JSON": (None, "not an object"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row_is_named_or_skipped(
    row: Any, reason: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}" + plain(MISTRAL)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(one) + "\n" for one in (*numbered(2), row)))
    output = tmp_path / "set"
    (tmp_path / "chat.jinja").write_text(template)
    given = [f"input=[{rows}]", f"output={output}", f"tokenizer={folder}", f"chat_template={tmp_path / 'chat.jinja'}"]
    assert command.main(given) == 2
    said = capsys.readouterr().err
    assert "rows.jsonl:3" in said and re.search(reason, said) and "bad_input=skip" in said and not output.exists()
    assert command.main([*given, "bad_input=skip", "seq_length=64"]) == 0
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    assert (counts["conversations"], counts["skipped_rows"]) == (2, 1)


UNSOUND: dict[str, tuple[str, str]] = {
    "no end of turn": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "without a special token of the tokenizer, so the model could not learn to stop",
    ),
    "end of turn outside of the block": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endfor %}",
        "inside any {% generation %} block",
    ),
    "not Jinja": ("{% for m in messages %}{{ m.content }}", "not a valid Jinja template"),
    "no file": ("absent.jinja", "no such file, nor a template"),
    "no text": ("latin1.jinja", "not valid UTF-8"),
    "changed by later messages": (
        "{% for m in messages %}{{ m.content if loop.last else '...' }}</s>{% endfor %}",
        "writes message 2 in another way when more follow",
    ),
}


@pytest.mark.parametrize(("template", "reason"), UNSOUND.values(), ids=UNSOUND)
def test_unsound_template_is_refused(
    template: str,
    reason: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "set"
    rows.write_text(json.dumps(numbered(1, turns=2)[0]) + "\n")
    config = tmp_path / "build_chat_set.yaml"
    (tmp_path / "latin1.jinja").write_bytes(b"\xe9")
    monkeypatch.chdir(tmp_path)
    given = {"input": [str(rows)], "output": str(output), "tokenizer": str(folder), "chat_template": template}
    config.write_text(json.dumps(given))
    assert command.main(["--config", str(config)]) == 2
    assert reason in capsys.readouterr().err
    assert not output.exists()


def test_bytes_in_a_message_are_refused(folder: Path, tmp_path: Path) -> None:
    row = {"messages": [{**message, "image": b"\xff"} for message in CHAT]}
    with pytest.raises(UserError, match=r"rows\.parquet:1(.|\n)*a message holds a value that JSON does not have"):
        build(folder, tmp_path / "set", [row], "parquet")


def test_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        build(write_gpt2_like(tmp_path / "tokenizer"), tmp_path / "set", numbered(1))


def test_variables_of_the_template(folder: Path, tmp_path: Path) -> None:
    template = "{{ date_string }} " + plain(MISTRAL)
    build(folder, tmp_path / "set", numbered(1), chat_template=template, chat_template_kwargs={"date_string": "May"})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert tokenizer.decode(documents(tmp_path / "set")[0]).startswith("May <s>[INST] user 0")
