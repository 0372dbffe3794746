"""A tokenizer as transformers loads it, asked for in a process of its own because transformers imports torch.

transformers rebuilds some tokenizer classes from their vocabulary and merges and sets the rest of tokenizer.json
aside (its LlamaTokenizer, which published Mistral and Llama folders name, drops their normalizer). Evaluation and
inference load the exported folder through AutoTokenizer, so the training data takes its ids from there too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.errors import UserError

_SENTENCEPIECE_BPE = 2  # TrainerSpec.ModelType in sentencepiece_model.proto


@dataclass(frozen=True)
class LoadedTokenizer:
    """`tokenizer_json` is the whole tokenizer in the format of `tokenizers`, truncation and padding taken out."""

    tokenizer_json: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """The tokenizer of a Hugging Face `folder` as AutoTokenizer gives it; torch stays out of this process.

    Raises:
        UserError: transformers cannot load it.
    """
    answer = _ask("load", folder)
    return LoadedTokenizer(**orjson.loads(answer))


def convert_sentencepiece(model_file: Path, folder: Path) -> None:
    """`write_tokenizer_folder` without importing torch into this process."""
    _ask("convert", model_file, folder)


def write_tokenizer_folder(sentencepiece_file: Path, folder: Path) -> None:
    """Write the Hugging Face tokenizer folder of a sentencepiece BPE model; as in Mistral's, BOS is added by default.

    Raises:
        UserError: not a sentencepiece BPE model with BOS and EOS.
    """
    from transformers import LlamaTokenizer

    special_tokens = _special_tokens(sentencepiece_file)
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copyfile(sentencepiece_file, Path(scratch) / "tokenizer.model")
        tokenizer = LlamaTokenizer.from_pretrained(scratch, add_bos_token=True, **special_tokens)
    tokenizer.save_pretrained(folder)


def _special_tokens(sentencepiece_file: Path) -> dict[str, str]:
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_file.read_bytes())
        pieces = SentencePieceProcessor(model_file=str(sentencepiece_file))
    except Exception as error:  # protobuf and sentencepiece raise classes of their own
        raise _unfit(sentencepiece_file, f"not a sentencepiece model: {error}") from error
    if model.trainer_spec.model_type != _SENTENCEPIECE_BPE:
        raise _unfit(sentencepiece_file, "a sentencepiece model, but not of the BPE type")
    ids = {"unk_token": pieces.unk_id(), "bos_token": pieces.bos_id(), "eos_token": pieces.eos_id()}
    if missing := [name for name, index in ids.items() if index < 0]:
        raise _unfit(sentencepiece_file, f"a sentencepiece model without {', '.join(missing)}")
    return {name: pieces.id_to_piece(index) for name, index in ids.items()}


def _unfit(file: Path, reason: str) -> UserError:
    return UserError("tokenizer_model", file, reason, "name a sentencepiece BPE model, or a Hugging Face folder")


def _describe(folder: Path) -> bytes:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # transformers raises whatever its readers happen to raise
        reason = f"transformers cannot load it: {error}"
        raise UserError("tokenizer_model", folder, reason, "name a complete Hugging Face tokenizer folder") from error
    backend.no_truncation()
    backend.no_padding()
    return orjson.dumps(
        {
            "tokenizer_json": backend.to_str(),
            "vocab_size": max(tokenizer.get_vocab().values()) + 1,
            "bos_id": tokenizer.bos_token_id,
            "eos_id": tokenizer.eos_token_id,
        }
    )


def _ask(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        result = subprocess.run([*command, str(answer)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode:
            if answer.is_file():
                raise UserError(**orjson.loads(answer.read_bytes()))
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
        return answer.read_text(encoding="utf-8")


def _answer(question: str, *arguments: str) -> int:
    *given, answer = map(Path, arguments)
    try:
        if question == "load":
            answer.write_bytes(_describe(given[0]))
        else:
            write_tokenizer_folder(given[0], given[1])
            answer.touch()
    except UserError as error:
        problem = error.problems[0]
        answer.write_bytes(orjson.dumps({**vars(problem), "value": str(problem.value)}))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(_answer(*sys.argv[1:]))
