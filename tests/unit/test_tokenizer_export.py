"""The tokenizer of an export has the ids and the BOS of the training data, whatever the source folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_tokenizers import write_gpt2_like, write_llama_3_like, write_published_mistral_like, write_qwen_like
from transformers import AutoTokenizer

from megatron_ipt.checkpointing.layout import CONTENTS_NAME
from megatron_ipt.cli.preprocess_data import main as preprocess
from megatron_ipt.conversion.trained_documents import ChatFormat, documents_begin_with_bos, find_chat_format
from megatron_ipt.corpus.manifest import Manifest, record_file, write_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.tokenizer_export import check_tokenizer, export_tokenizer
from megatron_ipt.tokenization.transformers_tokenizer import describe_tokenizer, open_tokenizer


def make_checkpoint(folder: Path, tokenizer: Path, *flags: list[str]) -> Path:
    """Write a checkpoint manifest with one dataset for each of `flags`."""
    checkpoint, data = folder / "checkpoint", folder / "data.jsonl"
    checkpoint.mkdir(parents=True)
    data.write_text('{"text": "a <s> b"}\n', encoding="utf-8")
    made = []
    for number, more in enumerate(flags):
        prefix = folder / str(number) / "x"
        given = ["--input", str(data), "--output-prefix", str(prefix), "--tokenizer-model", str(tokenizer)]
        assert preprocess([*given, "--append-eod", *more]) == 0
        made.append(record_file(Path(f"{prefix}_text_document.bin"), checkpoint))
    write_manifest(checkpoint, Manifest("pretrain", "complete", {}, inputs=made))
    return checkpoint


@pytest.mark.parametrize("write", [write_gpt2_like, write_llama_3_like, write_published_mistral_like])
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_export_adds_one_bos_if_the_training_data_has_it(
    write: Callable[[Path], Path], adds_bos: bool, family: str, tmp_path: Path
) -> None:
    source = open_tokenizer(write(tmp_path / "source"))
    exported_to = tmp_path / "hf"
    exported_to.mkdir()
    (exported_to / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    _, compared = export_tokenizer(source, exported_to, adds_bos=adds_bos)
    assert compared["texts_compared"] > 40
    exported = AutoTokenizer.from_pretrained(exported_to)
    assert exported(" some text")["input_ids"].count(exported.bos_token_id) == adds_bos
    assert (exported.bos_token, exported.eos_token) == (source.bos_token, source.eos_token)
    assert exported.chat_template == source.chat_template
    as_lm_eval = AutoTokenizer.from_pretrained(exported_to, add_bos_token=True)
    ids = as_lm_eval.encode("some text", add_special_tokens=True)
    assert (ids[0], ids.count(exported.bos_token_id)) == (exported.bos_token_id, 1)


def test_qwen2_takes_no_other_pre_tokenizer_than_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    export_tokenizer(open_tokenizer(write_qwen_like(tmp_path / "qwen")), tmp_path, adds_bos=False)
    source = open_tokenizer(write_published_mistral_like(tmp_path / "mistral"))
    with pytest.raises(UserError, match=r"choose another model\.family"):
        export_tokenizer(source, tmp_path, adds_bos=True)


def test_folder_with_different_ids_is_refused(tmp_path: Path) -> None:
    source = open_tokenizer(write_published_mistral_like(tmp_path / "source"))
    export_tokenizer(source, tmp_path / "hf", adds_bos=True)
    loaded = describe_tokenizer(source)
    with pytest.raises(UserError, match="the training data"):
        check_tokenizer(tmp_path / "hf", loaded, adds_bos=False)
    config = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(UserError, match="the training data"):
        check_tokenizer(tmp_path / "hf", loaded, adds_bos=True)


@pytest.mark.parametrize(
    ("flags", "expected"), [([["--prepend-bod"]], True), ([[]], False), ([["--prepend-bod"], []], None), ([], None)]
)
def test_manifests_of_the_data_record_bos(flags: list[list[str]], expected: bool | None, tmp_path: Path) -> None:
    tokenizer = write_gpt2_like(tmp_path / "tokenizer")
    assert documents_begin_with_bos(make_checkpoint(tmp_path, tokenizer, *flags), tokenizer) is expected


@pytest.mark.parametrize("has_bos", [True, False])
def test_tuning_set_begins_with_bos_if_the_tokenizer_has_one(has_bos: bool, tmp_path: Path) -> None:
    tokenizer, data, checkpoint = (tmp_path / name for name in ("tokenizer", "data", "checkpoint"))
    write_gpt2_like(tokenizer)
    if not has_bos:
        (tokenizer / "tokenizer_config.json").write_text('{"eos_token": "</s>"}', encoding="utf-8")
    data.mkdir()
    checkpoint.mkdir()
    (data / "tuning_text_document.bin").write_bytes(b"")
    read = [record_file(tokenizer / "tokenizer.json", data)]
    write_manifest(data, Manifest("tuning-set", "complete", {}, inputs=read))
    trained_on = [record_file(data / "tuning_text_document.bin", checkpoint)]
    write_manifest(checkpoint, Manifest("pretrain", "complete", {}, inputs=trained_on))
    assert documents_begin_with_bos(checkpoint, tokenizer) is has_bos


def make_chat_checkpoint(folder: Path, base: Path, templates: list[str]) -> Path:
    """Write a checkpoint that started from `base` and was trained on a chat set for each of `templates`."""
    checkpoint = folder / "tuned"
    checkpoint.mkdir()
    (base / CONTENTS_NAME).write_text("{}", encoding="utf-8")
    trained_on = [record_file(base / CONTENTS_NAME, checkpoint)]
    for number, template in enumerate(templates):
        data = folder / f"chat_{number}"
        data.mkdir()
        (data / "chat_text_document.bin").write_bytes(b"")
        (data / "chat_template.jinja").write_text(template, encoding="utf-8")
        counts = {"turn_ends": {"</s>": 401, "<|eot|>": 500 + number}}
        write_manifest(data, Manifest("chat-set", "complete", {}, counts=counts))
        trained_on.append(record_file(data / "chat_text_document.bin", checkpoint))
    write_manifest(checkpoint, Manifest("pretrain", "complete", {}, inputs=trained_on))
    return checkpoint


@pytest.mark.parametrize("flags", [["--prepend-bod"], []])
def test_after_conversations_other_texts_begin_as_in_pre_training(flags: list[str], tmp_path: Path) -> None:
    tokenizer = write_gpt2_like(tmp_path / "tokenizer")
    base = make_checkpoint(tmp_path, tokenizer, flags)
    tuned = make_chat_checkpoint(tmp_path, base, ["a"])
    assert documents_begin_with_bos(tuned, tokenizer) is bool(flags)


def test_chat_template_is_that_of_the_conversations(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path, write_gpt2_like(tmp_path / "tokenizer"), [])
    assert find_chat_format(base, "own") is None
    (tmp_path / "one").mkdir()
    tuned = make_chat_checkpoint(tmp_path / "one", base, ["a", "a"])
    assert find_chat_format(tuned, "own") == find_chat_format(tuned, None) == ChatFormat("a", [401, 500, 501])
    (tmp_path / "two").mkdir()
    tuned = make_chat_checkpoint(tmp_path / "two", base, ["a", "b"])
    assert find_chat_format(tuned, "b") == ChatFormat("b", [401, 501])
    with pytest.raises(UserError, match="several chat templates"):
        find_chat_format(tuned, "own")


def test_tokenizer_of_other_data_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, write_gpt2_like(tmp_path / "tokenizer"), ["--prepend-bod"])
    other = write_llama_3_like(tmp_path / "other")
    with pytest.raises(UserError, match="is not the one that the training data was made with"):
        documents_begin_with_bos(checkpoint, other)
