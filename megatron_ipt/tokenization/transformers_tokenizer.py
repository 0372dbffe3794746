"""A tokenizer as transformers loads it, in a subprocess, because transformers imports torch.

tokenizer.json is used unchanged. AutoTokenizer may rebuild it from its vocabulary and merges, depending on its version,
the class that the folder names and the config.json next to it: the LlamaTokenizer of transformers 5 drops the
normalizer of a published Mistral or Llama folder, unless there is a Mistral config.json. The exported folder names a
class that uses the file unchanged (`tokenizer_folders`), so that the ids of the training data are those of the export.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from tokenizers import Tokenizer

from megatron_ipt.errors import UserError
from megatron_ipt.tokenization import tokenizer_folders
from megatron_ipt.tokenization.tokenizer_cache import load_cached
from megatron_ipt.tokenization.tokenizer_folders import plain_tokenizer_json, write_tokenizer_folder
from megatron_ipt.tokenization.tokenizers import TOKENIZER_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_SENTENCEPIECE_BPE = 2  # TrainerSpec.ModelType in sentencepiece_model.proto
_CODE = (Path(__file__), Path(tokenizer_folders.__file__))
"""The sources that decide what `describe_tokenizer` returns."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer in the JSON format of `tokenizers`, without truncation and padding, and its special ids."""

    tokenizer_json: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """Run `describe_tokenizer` on a Hugging Face `folder` or hub name, without importing torch into this process.

    Raises:
        UserError: transformers cannot load it, or a text could produce its BOS or EOS.
    """

    def load() -> bytes:
        return _run_subprocess("load", folder)

    answer = load_cached(folder, _CODE, load) if folder.is_dir() else load()
    return LoadedTokenizer(**orjson.loads(answer))


def convert_sentencepiece(model_file: Path, folder: Path) -> None:
    """Run `write_sentencepiece_folder` without importing torch into this process."""
    _run_subprocess("convert", model_file, folder)


def open_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Open the tokenizer of `folder` with transformers: its tokenizer.json unchanged or, without one, by AutoTokenizer.

    Special tokens that the folder leaves to the defaults of its class are set to those.

    Raises:
        UserError: transformers cannot load it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if not (folder / TOKENIZER_NAME).is_file():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        if tokenizer.eos_token is None:
            _set_default_special_tokens(tokenizer, AutoTokenizer.from_pretrained(str(folder), local_files_only=True))
        return tokenizer
    except Exception as error:  # transformers passes on the exceptions of its many readers
        reason = f"transformers cannot load it: {error}"
        raise UserError("tokenizer_model", folder, reason, "give a complete Hugging Face tokenizer folder") from error


def _set_default_special_tokens(tokenizer: PreTrainedTokenizerFast, reference: PreTrainedTokenizerBase) -> None:
    """Set the special tokens that `tokenizer` lacks to those of `reference`, if its vocabulary has them."""
    vocab = tokenizer.get_vocab()
    for name, token in reference.special_tokens_map.items():
        if token in vocab and getattr(tokenizer, name) is None:
            setattr(tokenizer, name, token)


def describe_tokenizer(tokenizer: PreTrainedTokenizerFast) -> LoadedTokenizer:
    """Extract what encoding needs from transformers' `tokenizer`.

    Raises:
        UserError: the name of BOS or EOS in a text would be encoded as that token.
    """
    content = plain_tokenizer_json(tokenizer.backend_tokenizer)
    plain = Tokenizer.from_str(content)
    plain.encode_special_tokens = True
    for name in (tokenizer.bos_token, tokenizer.eos_token):
        if name is not None and plain.token_to_id(name) in plain.encode(name, add_special_tokens=False).ids:
            reason = f"a text that contains {name} would be encoded with that special token"
            remedy = "use a tokenizer whose model cannot merge characters into it"
            raise UserError("tokenizer_model", tokenizer.name_or_path, reason, remedy)
    largest_id = max(tokenizer.get_vocab().values())
    return LoadedTokenizer(content, largest_id + 1, tokenizer.bos_token_id, tokenizer.eos_token_id)


def write_sentencepiece_folder(sentencepiece_file: Path, folder: Path) -> None:
    """Write a Hugging Face tokenizer folder for a sentencepiece BPE model; BOS is added by default, as by Mistral's.

    Raises:
        UserError: the file is not a sentencepiece BPE model with BOS and EOS.
    """
    from transformers import LlamaTokenizer

    special_tokens = _special_tokens(sentencepiece_file)
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copyfile(sentencepiece_file, Path(scratch) / "tokenizer.model")
        tokenizer = LlamaTokenizer.from_pretrained(scratch, add_bos_token=True, **special_tokens)
    write_tokenizer_folder(tokenizer, folder, adds_bos=True)


def _special_tokens(sentencepiece_file: Path) -> dict[str, str]:
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_file.read_bytes())
        pieces = SentencePieceProcessor(model_file=str(sentencepiece_file))
    except Exception as error:  # protobuf and sentencepiece raise their own classes of exceptions
        raise _unsupported(sentencepiece_file, f"not a sentencepiece model: {error}") from error
    if model.trainer_spec.model_type != _SENTENCEPIECE_BPE:
        raise _unsupported(sentencepiece_file, "a sentencepiece model, but not of the BPE type")
    ids = {"unk_token": pieces.unk_id(), "bos_token": pieces.bos_id(), "eos_token": pieces.eos_id()}
    if missing := [name for name, token_id in ids.items() if token_id < 0]:
        raise _unsupported(sentencepiece_file, f"a sentencepiece model without {', '.join(missing)}")
    return {name: pieces.id_to_piece(token_id) for name, token_id in ids.items()}


def _unsupported(file: Path, reason: str) -> UserError:
    return UserError("tokenizer_model", file, reason, "give a sentencepiece BPE model, or a Hugging Face folder")


def _run_subprocess(*arguments: str | Path) -> bytes:
    """Run this module as a script, and return the content of the answer file; a UserError is passed on."""
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        result = subprocess.run([*command, str(answer)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode == UserError.exit_code:
            raise UserError(**orjson.loads(answer.read_bytes()))
        if result.returncode:
            reason = result.stderr.strip().rpartition("\n")[2]  # such as OSError: [Errno 28] No space left on device
            raise RuntimeError(f"{reason} ({' '.join(command)})\n{result.stderr}")
        return answer.read_bytes()


def _main(command: str, *arguments: str) -> int:
    """Run `command` and write the answer file, the last argument; return the exit code."""
    *paths, answer = map(Path, arguments)
    try:
        if command == "load":
            answer.write_bytes(orjson.dumps(describe_tokenizer(open_tokenizer(paths[0]))))
        else:
            write_sentencepiece_folder(paths[0], paths[1])
            answer.touch()
    except UserError as error:
        problem = error.problems[0]
        answer.write_bytes(orjson.dumps({**vars(problem), "value": str(problem.value)}))
        return UserError.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(_main(*sys.argv[1:]))
