"""Load the engine and the tokenizer that a configuration names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from megatron_ipt.config.synthesis import ENGINES, EngineConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.lm.engine import LMEngine
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer, load_prompt_tokenizer

DTYPES = ("float32", "bfloat16", "float16")

EngineLoader = Callable[[EngineConfig, PromptTokenizer], LMEngine]
TokenizerLoader = Callable[[str], PromptTokenizer]


def load_tokenizer_of(config: EngineConfig, load: TokenizerLoader = load_prompt_tokenizer) -> PromptTokenizer:
    """Load the tokenizer of the engine's model.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    return load(config.tokenizer or config.model)


def find_engine_problems(config: EngineConfig) -> list[Problem]:
    """Find problems with the settings, before anything is loaded."""
    problems: list[Problem] = []
    name = "engine.model" if config.tokenizer is None else "engine.tokenizer"
    if _is_absent(folder := config.tokenizer or config.model):
        problems.append(Problem(name, folder, "no such folder", "check the path"))
    if not _is_url(url := config.endpoint.url):
        problems.append(Problem("engine.endpoint.url", url, "not a URL of a server", "give http://HOST:PORT/v1"))
    return problems


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def load_engine(config: EngineConfig, tokenizer: PromptTokenizer) -> LMEngine:
    """Start the engine that `config.kind` names.

    Raises:
        UserError: a setting is invalid, or the engine cannot be started.
    """
    if problems := find_engine_problems(config):
        raise UserError.of(problems)
    engine: LMEngine = ENGINES.load(config.kind)(config, tokenizer)
    return engine


def check_model_folder(config: EngineConfig) -> None:
    """Reject a model that is neither a folder nor a possible name on the hub, before slow libraries are imported.

    Raises:
        UserError: there is no such folder.
    """
    if _is_absent(config.model):
        raise UserError("engine.model", config.model, "no such folder", "check the path")


def _is_absent(model: str) -> bool:
    return not Path(model).is_dir() and not is_hub_name(model)


def is_hub_name(model: str) -> bool:
    """Return whether `model` has the form of a name on the Hugging Face Hub: NAME or OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model) is not None
