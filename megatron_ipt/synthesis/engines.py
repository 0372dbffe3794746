"""The engine and the tokenizer that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.engine import Engine
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


def load_engine(config: EngineConfig, tokenizer: PromptTokenizer) -> Engine:
    """The engine that `config.kind` names.

    Raises:
        UserError: there is no such engine, or it cannot be started.
    """
    if config.kind not in ENGINE_KINDS:
        raise UserError("engine.kind", config.kind, "no such engine", f"one of {', '.join(ENGINE_KINDS)}")
    if config.kind == "endpoint":
        from megatron_ipt.synthesis.endpoint_engine import EndpointEngine

        return EndpointEngine(config)
    _check_model(config)
    if config.kind == "vllm":
        from megatron_ipt.synthesis.vllm_engine import VllmEngine

        return VllmEngine(config, tokenizer)
    from megatron_ipt.synthesis.transformers_engine import TransformersEngine

    return TransformersEngine(config, tokenizer)


def _check_model(config: EngineConfig) -> None:
    if config.dtype not in DTYPES:
        raise UserError("engine.dtype", config.dtype, "no such number format", f"one of {', '.join(DTYPES)}")
    is_path = config.model.startswith((".", "/")) or config.model.count("/") > 1
    if is_path and not Path(config.model).is_dir():
        raise UserError("engine.model", config.model, "no such folder", "check the path")
