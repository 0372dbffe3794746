"""A tokenizer as transformers loads it, read in a process of its own because transformers imports torch.

tokenizer.json is read as it stands. AutoTokenizer may rebuild it from its vocabulary and merges, depending on its
version, the class that the folder names and the config.json beside it: the LlamaTokenizer of transformers 5 drops the
normalizer of a published Mistral or Llama folder, and keeps it once a Mistral config.json is there. The exported folder
names a class that takes the file as it stands (`tokenizer_folders`), so the ids of the training data are those of the
export.
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
from tokenizers import Tokenizer

from megatron_ipt.data.tokenizer_folders import text_only_json, write_tokenizer_folder
from megatron_ipt.data.tokenizers import TOKENIZER_NAME
from megatron_ipt.errors import UserError

_SENTENCEPIECE_BPE = 2  # TrainerSpec.ModelType in sentencepiece_model.proto


@dataclass(frozen=True)
class LoadedTokenizer:
    """`tokenizer_json` is the whole tokenizer in the format of `tokenizers`, without truncation and padding."""

    tokenizer_json: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """`describe_tokenizer` of a Hugging Face `folder`, without importing torch into this process.

    Raises:
        UserError: transformers cannot load it, or a text can spell its BOS or EOS.
    """
    answer = _ask("load", folder)
    return LoadedTokenizer(**orjson.loads(answer))


def convert_sentencepiece(model_file: Path, folder: Path) -> None:
    """`write_sentencepiece_folder` without importing torch into this process."""
    _ask("convert", model_file, folder)


def open_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of `folder`: its tokenizer.json as it stands or, without one, what AutoTokenizer makes.

    Special tokens that the folder leaves to the defaults of its class are named as the class does.

    Raises:
        UserError: transformers cannot load it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if not (folder / TOKENIZER_NAME).is_file():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        if tokenizer.eos_token is None:
            _name_special_tokens(tokenizer, AutoTokenizer.from_pretrained(str(folder), local_files_only=True))
        return tokenizer
    except Exception as error:  # transformers raises whatever its readers happen to raise
        reason = f"transformers cannot load it: {error}"
        raise UserError("tokenizer_model", folder, reason, "name a complete Hugging Face tokenizer folder") from error


def _name_special_tokens(tokenizer: Any, model: Any) -> None:
    known = tokenizer.get_vocab()
    for name, token in model.special_tokens_map.items():
        if token in known and getattr(tokenizer, name) is None:
            setattr(tokenizer, name, token)


def describe_tokenizer(tokenizer: Any) -> LoadedTokenizer:
    """What encoding needs to know of transformers' `tokenizer`.

    Raises:
        UserError: the name of BOS or EOS in a text would still become that token.
    """
    content = text_only_json(tokenizer.backend_tokenizer)
    plain = Tokenizer.from_str(content)
    plain.encode_special_tokens = True
    for name in (tokenizer.bos_token, tokenizer.eos_token):
        if name is not None and plain.token_to_id(name) in plain.encode(name, add_special_tokens=False).ids:
            reason = f"a text that holds the name {name} would get that token"
            remedy = "use a tokenizer whose model has no way to build it from characters"
            raise UserError("tokenizer_model", tokenizer.name_or_path, reason, remedy)
    largest_id = max(tokenizer.get_vocab().values())
    return LoadedTokenizer(content, largest_id + 1, tokenizer.bos_token_id, tokenizer.eos_token_id)


def write_sentencepiece_folder(sentencepiece_file: Path, folder: Path) -> None:
    """Write the Hugging Face tokenizer folder of a sentencepiece BPE model; as in Mistral's, BOS is added by default.

    Raises:
        UserError: not a sentencepiece BPE model with BOS and EOS.
    """
    from transformers import LlamaTokenizer

    special_tokens = _special_tokens(sentencepiece_file)
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copyfile(sentencepiece_file, Path(scratch) / "tokenizer.model")
        tokenizer = LlamaTokenizer.from_pretrained(scratch, add_bos_token=True, **special_tokens)
    write_tokenizer_folder(tokenizer, folder, puts_bos=True)


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


def _ask(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        result = subprocess.run([*command, str(answer)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode == UserError.exit_code:
            raise UserError(**orjson.loads(answer.read_bytes()))
        if result.returncode:
            reason = result.stderr.strip().rpartition("\n")[2]  # such as OSError: [Errno 28] No space left on device
            raise RuntimeError(f"{reason} ({' '.join(command)})\n{result.stderr}")
        return answer.read_text(encoding="utf-8")


def _answer(question: str, *arguments: str) -> int:
    *given, answer = map(Path, arguments)
    try:
        if question == "load":
            answer.write_bytes(orjson.dumps(describe_tokenizer(open_tokenizer(given[0]))))
        else:
            write_sentencepiece_folder(given[0], given[1])
            answer.touch()
    except UserError as error:
        problem = error.problems[0]
        answer.write_bytes(orjson.dumps({**vars(problem), "value": str(problem.value)}))
        return UserError.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(_answer(*sys.argv[1:]))
