"""Tokenizers of the kinds that people train with, small enough to be made in a moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_TRAINED_ON = [
    "The keeper counted the seconds between two flashes, and said hello to the ships that passed in the night.",
    "Othello, the moor of Venice; a loaf costs 0.85 in flour but 4.20 at the corner shop, said the other keeper.",
    "Bis zum nächsten Mal, merci pour la soupe à l'oignon, спасибо за чай, とてもおいしかった.",
] * 20
_LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_gpt2_like(folder: Path, added: Sequence[AddedToken] = (), normalizer: object = None) -> Path:
    """Byte-level BPE with `<s>` and `</s>` at the end of the vocabulary, and BOS not put before texts."""
    tokenizer = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens(list(added))
    return _write(folder, tokenizer, bos_token="<s>", eos_token="</s>", tokenizer_class="PreTrainedTokenizerFast")


def write_llama_3_like(folder: Path) -> Path:
    """Byte-level BPE behind a pattern, special tokens past the vocabulary, BOS put before texts."""
    split = pre_tokenizers.Split(Regex(_LLAMA_3_SPLIT), "isolated")
    tokenizer = _byte_level(
        pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    tokenizer.model.ignore_merges = True
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens(names)
    bos_id = tokenizer.token_to_id(names[0])
    template = processors.TemplateProcessing(single=[names[0], "$A"], pair=None, special_tokens=[(names[0], bos_id)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    config = {"bos_token": names[0], "eos_token": names[1], "tokenizer_class": "PreTrainedTokenizerFast"}
    return _write(folder, tokenizer, **config, chat_template="{{ bos_token }}{{ messages[0].content }}")


def write_qwen_like(folder: Path) -> Path:
    """Byte-level BPE as Qwen2Tokenizer builds it: NFC, single digits, no BOS."""
    pattern = _LLAMA_3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer = _byte_level(
        pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    ends = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    return _write(folder, tokenizer, **ends, tokenizer_class="Qwen2Tokenizer")


def write_published_mistral_like(folder: Path) -> Path:
    """BPE with byte fallback whose white space is the normalizer's work, under the class name LlamaTokenizer."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(_TRAINED_ON, trainers.BpeTrainer(vocab_size=600, special_tokens=names))
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "legacy": True}
    return _write(folder, tokenizer, **config, tokenizer_class="LlamaTokenizer")


def write_unigram(folder: Path) -> Path:
    """A Unigram model with its special tokens among its pieces, as sentencepiece numbers them."""
    special = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    letters = [(letter, -3.0 - number / 100) for number, letter in enumerate("▁abcdefghijklmnopqrstuvwxyz<>/")]
    tokenizer = Tokenizer(models.Unigram([*special, *letters], 0, False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens([name for name, _ in special])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _write(folder, tokenizer, **names, tokenizer_class="PreTrainedTokenizerFast")


def _byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_TRAINED_ON, trainer)
    return tokenizer


def _write(folder: Path, tokenizer: Tokenizer, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
