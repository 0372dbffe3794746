"""The engine and the tokenizer that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from megatron_ipt.config.synthesis import EndpointConfig, EngineConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.synthesis.engines.engine import Engine
from megatron_ipt.synthesis.prompt_tokenizer import PromptTokenizer, load_prompt_tokenizer

ENGINE_KINDS = ("transformers", "vllm", "endpoint")
DTYPES = ("float32", "bfloat16", "float16")

EngineLoader = Callable[[EngineConfig, PromptTokenizer], Engine]
TokenizerLoader = Callable[[str], PromptTokenizer]


def load_tokenizer_of(config: EngineConfig, load: TokenizerLoader = load_prompt_tokenizer) -> PromptTokenizer:
    """The tokenizer of the engine's model.

    Raises:
        UserError: there is none.
    """
    return load(config.tokenizer or config.model)


def find_engine_problems(config: EngineConfig) -> list[Problem]:
    """What is wrong with the settings, before anything is loaded."""
    problems = []
    if config.kind not in ENGINE_KINDS:
        problems.append(Problem("engine.kind", config.kind, "no such engine", f"one of {', '.join(ENGINE_KINDS)}"))
    if config.dtype not in DTYPES:
        problems.append(Problem("engine.dtype", config.dtype, "no such number format", f"one of {', '.join(DTYPES)}"))
    counts = {name: getattr(config, name) for name in ("batch_size", "max_model_len", "max_new_tokens")}
    counts["vllm.tensor_parallel_size"] = config.vllm.tensor_parallel_size
    for name, value in counts.items():
        if value < 1:
            problems.append(Problem(f"engine.{name}", value, "below 1", "give 1 or more"))
    share = config.vllm.gpu_memory_utilization
    if not 0 < share <= 1:
        problems.append(Problem("engine.vllm.gpu_memory_utilization", share, "not a share", "give above 0 to 1"))
    return problems + _find_endpoint_problems(config.endpoint)


def _find_endpoint_problems(config: EndpointConfig) -> list[Problem]:
    problems = []
    for name in ("concurrency", "timeout_seconds", "requests_per_minute"):
        if (value := getattr(config, name)) is not None and value <= 0:
            problems.append(Problem(f"engine.endpoint.{name}", value, "not above 0", "give more than 0"))
    if config.max_retries < 0:
        problems.append(Problem("engine.endpoint.max_retries", config.max_retries, "below 0", "give 0 or more"))
    if not 0 <= config.max_refused_share <= 1:
        problems.append(
            Problem("engine.endpoint.max_refused_share", config.max_refused_share, "not a share", "give 0 to 1")
        )
    if not _is_url(config.url):
        problems.append(Problem("engine.endpoint.url", config.url, "not a URL of a server", "give http://HOST:PORT/v1"))
    return problems


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def load_engine(config: EngineConfig, tokenizer: PromptTokenizer) -> Engine:
    """The engine that `config.kind` names.

    Raises:
        UserError: there is no such engine, or it cannot be started.
    """
    if problems := find_engine_problems(config):
        raise UserError.of(problems)
    if config.kind == "endpoint":
        from megatron_ipt.synthesis.engines.endpoint_engine import EndpointEngine

        return EndpointEngine(config)
    _check_model(config)
    if config.kind == "vllm":
        from megatron_ipt.synthesis.engines.vllm_engine import VllmEngine

        return VllmEngine(config, tokenizer)
    from megatron_ipt.synthesis.engines.transformers_engine import TransformersEngine

    return TransformersEngine(config, tokenizer)


def _check_model(config: EngineConfig) -> None:
    is_path = config.model.startswith((".", "/")) or config.model.count("/") > 1
    if is_path and not Path(config.model).is_dir():
        raise UserError("engine.model", config.model, "no such folder", "check the path")
