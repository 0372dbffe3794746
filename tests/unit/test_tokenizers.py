"""Tokenizers: folder metadata, conversion of sentencepiece models, and encoder ids equal to transformers'."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tokenizers import write_gpt2_like, write_llama_3_like, write_published_mistral_like, write_unigram
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.encoders import GigatokenEncoder, ReferenceEncoder, choose_encoder, split_by_text
from megatron_ipt.tokenization.tokenizer_folders import write_tokenizer_folder
from megatron_ipt.tokenization.tokenizers import read_tokenizer
from megatron_ipt.tokenization.transformers_tokenizer import (
    LoadedTokenizer,
    describe_tokenizer,
    load_tokenizer,
    open_tokenizer,
    write_sentencepiece_folder,
)

ALPHABETS = {
    "latin": "".join(map(chr, range(1, 0x300))),
    "scripts": "".join(map(chr, range(0x300, 0x3200))),
    "emoji": "".join(map(chr, range(0x1F000, 0x1FB00))) + "\u200d\ufe0f",
    "white space": " \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2028\u2029\u202f\u3000\u200b\ufeff▁ab",
    "planes": "".join(chr(code) for code in range(0x3200, 0x110000, 97) if not 0xD800 <= code < 0xE000),
    "code": "aA1 'sStmd.,!-_<>|▁\n\t ",
}
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", " ", "a", "\n", "the "]


@functools.cache
def described(folder: Path) -> LoadedTokenizer:
    return describe_tokenizer(open_tokenizer(folder))


def odd_texts() -> list[str]:
    chance = random.Random(7)
    texts = ["", " ", "  x", "a" * 50_000, " " * 5_000, "😀" * 5_000, "1234567890" * 500]
    for letters in [*ALPHABETS.values(), SPECIAL]:
        texts += ["".join(chance.choices(letters, k=chance.randint(1, 60))) for _ in range(400)]
    every = [*"".join(ALPHABETS.values()), *SPECIAL]
    return texts + ["".join(chance.choices(every, k=chance.randint(1, 120))) for _ in range(1000)]


@pytest.fixture(scope="session")
def converted(sentencepiece_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    write_sentencepiece_folder(sentencepiece_file, folder)
    return folder


@pytest.fixture(scope="session")
def published(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder like the published Mistral and Llama ones, which transformers 5 reads differently."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(converted, folder, dirs_exist_ok=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    tokenizer |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["converted", "published", "smollm2"])
def test_encoder_ids_match_the_exported_folder(
    name: str, quickstart_inputs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = quickstart_inputs / "smollm2" if name == "smollm2" else request.getfixturevalue(name)
    loaded = described(folder)
    encoder, reason = choose_encoder(loaded, ReferenceEncoder(loaded), threads=0)
    assert (encoder.name, reason) == ("gigatoken", None)
    texts = odd_texts()
    found = split_by_text(encoder.encode(texts))
    exported = exported_beside_a_model(folder, tmp_path)
    expected = exported(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(found) == len(texts)
    for text, ids, right in zip(texts, found, expected, strict=True):
        assert ids.tolist() == right, text


def exported_beside_a_model(source: Path, folder: Path) -> Any:
    """Open an export with AutoTokenizer, which chooses a class by the config.json in it."""
    write_tokenizer_folder(open_tokenizer(source), folder)
    (folder / "config.json").write_text('{"model_type": "mistral"}', encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def test_ids_of_a_published_mistral_folder_match_those_next_to_its_model(tmp_path: Path) -> None:
    folder = write_published_mistral_like(tmp_path)
    texts = [f" {text}" for text in odd_texts()[-200:]]
    found = split_by_text(ReferenceEncoder(described(folder)).encode(texts))
    (folder / "config.json").write_text('{"model_type": "mistral"}', encoding="utf-8")
    expected = AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False, split_special_tokens=True)
    assert [ids.tolist() for ids in found] == expected["input_ids"]


@pytest.mark.parametrize("write", [write_gpt2_like, write_llama_3_like, write_published_mistral_like])
def test_name_of_a_special_token_is_plain_text(write: Callable[[Path], Path], tmp_path: Path) -> None:
    loaded = described(write(tmp_path))
    reference = ReferenceEncoder(loaded)
    encoder, reason = choose_encoder(loaded, reference, threads=1)
    assert (encoder.name, reason) == ("gigatoken", None)
    plain = Tokenizer.from_str(loaded.tokenizer_json)
    special = {index: token.content for index, token in plain.get_added_tokens_decoder().items()}
    texts = [text for name in special.values() for text in (name, f"<b>{name}struck{name}</b>", f" {name} {name}")]
    for either in (encoder, reference):
        for text, ids in zip(texts, split_by_text(either.encode(texts)), strict=True):
            assert not special.keys() & set(ids.tolist()), (either.name, text)
            assert plain.decode(ids.tolist(), skip_special_tokens=False).strip() == text.strip()


def test_unigram_model_does_not_yield_special_tokens(tmp_path: Path) -> None:
    folder = write_unigram(tmp_path / "source")
    text = "a <s>b</s>"
    (ids,) = split_by_text(ReferenceEncoder(described(folder)).encode([text]))
    exported = exported_beside_a_model(folder, tmp_path / "exported")
    assert ids.tolist() == exported(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert exported.convert_ids_to_tokens(ids.tolist()) == [*"▁a▁<s>b</s>"]
    assert exported("<s>", add_special_tokens=False)["input_ids"][-1] == 1


def test_bos_that_texts_can_produce_is_refused(tmp_path: Path) -> None:
    file = write_published_mistral_like(tmp_path) / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    model = content["model"]
    model["vocab"] |= {token: len(model["vocab"]) + number for number, token in enumerate(["<s", "<", ">"])}
    model["merges"] += [["<", "s"], ["<s", ">"]]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="a text that contains <s> would be encoded with that special token"):
        describe_tokenizer(open_tokenizer(tmp_path))


def test_default_special_tokens_of_the_class_are_used(tmp_path: Path) -> None:
    folder = write_published_mistral_like(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}', encoding="utf-8")
    loaded = described(folder)
    assert (loaded.bos_id, loaded.eos_id) == (1, 2)


@pytest.mark.parametrize(
    ("flags", "normalizer", "encoder_name"),
    [
        ({"single_word": True}, None, "tokenizers"),
        ({"lstrip": True}, None, "tokenizers"),
        ({"rstrip": True}, None, "tokenizers"),
        ({"normalized": True}, normalizers.NFC(), "tokenizers"),
        ({"normalized": False}, normalizers.NFC(), "gigatoken"),
        ({"normalized": True}, None, "gigatoken"),
        ({"single_word": True, "special": True}, None, "gigatoken"),
    ],
)
def test_added_token_is_matched_under_its_conditions(
    flags: dict[str, bool], normalizer: normalizers.Normalizer | None, encoder_name: str, tmp_path: Path
) -> None:
    folder = write_gpt2_like(tmp_path, [AddedToken("lighthouse", **flags)], normalizer)
    loaded = described(folder)
    encoder, reason = choose_encoder(loaded, ReferenceEncoder(loaded), threads=1)
    assert encoder.name == encoder_name
    assert (reason is None) == (encoder_name == "gigatoken")
    texts = ["a lighthouse", "a  lighthouse , two lighthouses", "Lighthouse", "lighthouselighthouse", "thelighthouse x"]
    expected = AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False, split_special_tokens=True)
    assert [ids.tolist() for ids in split_by_text(encoder.encode(texts))] == expected["input_ids"]


def test_bytes_without_a_token_are_dropped_as_by_tokenizers(quickstart_inputs: Path) -> None:
    loaded = described(quickstart_inputs / "smollm2")
    reference = ReferenceEncoder(loaded)
    texts = ["plain", "one\x04two\x06", "", "after"]
    encoded = GigatokenEncoder(loaded, reference, threads=1).encode(texts)
    assert encoded.ids.max() < loaded.vocab_size
    assert all(map(np.array_equal, split_by_text(encoded), split_by_text(reference.encode(texts))))


def test_unsupported_tokenizer_falls_back_to_tokenizers() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    loaded = LoadedTokenizer(words.to_str(), 3, None, 2)
    encoder, reason = choose_encoder(loaded, ReferenceEncoder(loaded), threads=1)
    assert encoder.name == "tokenizers"
    assert reason is not None and "gigatoken" in reason
    assert [ids.tolist() for ids in split_by_text(encoder.encode(["b a c", ""]))] == [[1, 0, 2], []]


def test_converted_sentencepiece_model_is_a_complete_folder(converted: Path) -> None:
    info = read_tokenizer(converted)
    assert (info.vocab_size, info.bos_id, info.eos_id) == (32_000, 1, 2)
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert len(tokenizer) == 32_000
    assert tokenizer("Ask: why?")["input_ids"] == [1, *tokenizer.encode("Ask: why?", add_special_tokens=False)]
    assert tokenizer.decode(tokenizer.encode("Ask:  why? é😀\n", add_special_tokens=False)) == "Ask:  why? é😀\n"


@pytest.mark.parametrize("name", ["tokenizer", "smollm2"])
def test_folder_metadata_matches_transformers(name: str, quickstart_inputs: Path) -> None:
    info = read_tokenizer(quickstart_inputs / name)
    tokenizer = AutoTokenizer.from_pretrained(quickstart_inputs / name)
    assert info.vocab_size == max(tokenizer.get_vocab().values()) + 1
    assert (info.bos_id, info.eos_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_special_tokens_may_be_objects(converted: Path, tmp_path: Path) -> None:
    shutil.copy(converted / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}', encoding="utf-8")
    assert (read_tokenizer(tmp_path).bos_id, read_tokenizer(tmp_path).eos_id) == (None, 2)


def test_errors_name_the_file(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_tokenizer(tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not valid JSON"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a tokenizer"):
        read_tokenizer(tmp_path)
    shutil.copy(converted / "tokenizer.json", tmp_path)
    with pytest.raises(UserError, match="no EOS token"):
        read_tokenizer(tmp_path)
    with pytest.raises(UserError, match="not a sentencepiece model"):
        write_sentencepiece_folder(converted / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="transformers cannot load it"):
        load_tokenizer(tmp_path)
