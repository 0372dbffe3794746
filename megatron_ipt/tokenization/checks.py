"""Checks of a preprocessing configuration before it starts."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.config.stages import PreprocessConfig
from megatron_ipt.corpus.rows import expand_inputs
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.tokenization.transformers_tokenizer import LoadedTokenizer

HUGGING_FACE_TYPES = ("HuggingFaceTokenizer",)
SENTENCEPIECE_TYPES = ("SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer")


def check_settings(config: PreprocessConfig) -> list[Path]:
    """Check the settings, and return the input files.

    Raises:
        UserError: lists every problem of the settings.
    """
    problems: list[Problem] = []
    files: list[Path] = []
    try:
        files = expand_inputs(config.input)
    except UserError as error:
        problems += error.problems
    problems += _find_tokenizer_problems(config)
    keys = config.json_keys
    if not keys or len(set(keys)) < len(keys) or any("/" in key for key in keys):
        reason = "empty, repeated, or not usable in a file name"
        problems.append(Problem("json_keys", keys, reason, "name at least one field, each once, without /"))
    if not Path(config.output_prefix).name or config.output_prefix.endswith("/"):
        problems.append(Problem("output_prefix", config.output_prefix, "it names no file", "write FOLDER/NAME"))
    if problems:
        raise UserError.of(problems)
    return files


def check_special_tokens(config: PreprocessConfig, loaded: LoadedTokenizer) -> None:
    """Check that the tokenizer has the BOS and EOS tokens that the settings add.

    Raises:
        UserError: the tokenizer names no such token.
    """
    wanted = (("prepend_bod", "BOS", loaded.bos_id), ("append_eod", "EOS", loaded.eos_id))
    problems = [
        Problem(name, True, f"the tokenizer names no {token} token", f"turn {name} off, or use another tokenizer")
        for name, token, token_id in wanted
        if getattr(config, name) and token_id is None
    ]
    if problems:
        raise UserError.of(problems)


def _find_tokenizer_problems(config: PreprocessConfig) -> list[Problem]:
    known_types = HUGGING_FACE_TYPES + SENTENCEPIECE_TYPES
    model = Path(config.tokenizer_model)
    if config.tokenizer_type not in known_types:
        remedy = f"one of {', '.join(known_types)}"
        return [Problem("tokenizer_type", config.tokenizer_type, "not a known type", remedy)]
    if config.tokenizer_type in HUGGING_FACE_TYPES and not model.is_dir():
        return [Problem("tokenizer_model", model, "no such folder", "name a Hugging Face tokenizer folder")]
    if config.tokenizer_type in SENTENCEPIECE_TYPES and not model.is_file():
        return [Problem("tokenizer_model", model, "no such file", "name a sentencepiece model file")]
    return []
