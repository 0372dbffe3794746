"""The engines against one another: vLLM in this process, `vllm serve`, and transformers, greedy in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
from window import MAX_MODEL_LEN, MAX_NEW_TOKENS

from megatron_ipt.config.settings import choices_of
from megatron_ipt.config.synthesis import EndpointConfig, EngineConfig, VllmConfig
from megatron_ipt.errors import UserError
from megatron_ipt.lm.engine import LMEngine, Request
from megatron_ipt.lm.loading import load_engine
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.pairs.grammar import Pair, parse_pairs
from megatron_ipt.pairs.prompts import PromptBuilder

KINDS = choices_of(EngineConfig.model_fields["kind"])

NEARLY_AS_LIKELY_NATS = 1e-3
"""Two tokens closer than this may change places by rounding in float32."""


def settings(kind: str, model: Path, server: str) -> EngineConfig:
    config = EngineConfig(
        kind=kind,
        model=str(model),
        tokenizer=str(model),
        max_model_len=MAX_MODEL_LEN,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=50,
        vllm=VllmConfig(enforce_eager=True),
        endpoint=EndpointConfig(url=server),
    )
    return config.model_copy(update={"model": "smollm2"}) if kind == "endpoint" else config


def answers_of(engine: LMEngine, prompts: list[list[int]]) -> list[tuple[str, int]]:
    found: dict[int, tuple[str, int]] = {}
    for key, prompt in enumerate(prompts):
        engine.submit(Request(key, prompt, MAX_NEW_TOKENS))
    while len(found) < len(prompts):
        found |= {one.key: (one.text, one.tokens) for one in engine.collect()}
    return [found[key] for key in range(len(prompts))]


@pytest.fixture(scope="module")
def prompts(builder: PromptBuilder, texts: list[str]) -> list[list[int]]:
    return [builder.build([], text).ids for text in texts]


@pytest.fixture(scope="module")
def results(
    model: Path, tokenizer: PromptTokenizer, builder: PromptBuilder, server: str, prompts: list[list[int]]
) -> dict[str, tuple[list[tuple[str, int]], list[float]]]:
    """Each engine's answers to all prompts, and its log-likelihoods of one answer after the first five."""
    found = {}
    for kind in KINDS:
        engine = load_engine(settings(kind, model, server), tokenizer)
        try:
            answers = answers_of(engine, prompts)
            _, scored = builder.build_scored(None, Pair("Who was it?", "The king of France"))
            found[kind] = answers, engine.score(prompts[:5], [scored] * 5)
        finally:
            engine.close()
    return found


@pytest.mark.parametrize("kind", ["vllm", "endpoint"])
def test_same_pairs_as_transformers(
    kind: str,
    results: dict[str, tuple[list[tuple[str, int]], list[float]]],
    prompts: list[list[int]],
    builder: PromptBuilder,
    tokenizer: PromptTokenizer,
    model: Path,
) -> None:
    """A difference is allowed where it begins with two tokens that rounding alone can exchange."""
    own, reference = ([text for text, _ in results[name][0]] for name in (kind, "transformers"))
    assert sum(bool(parse_pairs(builder.opening + text).pairs) for text in reference) > len(reference) / 3
    differing = [number for number in range(len(prompts)) if own[number] != reference[number]]
    assert len(differing) <= len(prompts) / 50
    for number in differing:
        nats = gap_nats(model, tokenizer, prompts[number], own[number], reference[number])
        assert nats < NEARLY_AS_LIKELY_NATS, (own[number], reference[number])


def gap_nats(model: Path, tokenizer: PromptTokenizer, prompt: list[int], one: str, other: str) -> float:
    """How much more likely, in float64, the one answer's first own token is than the other's."""
    import torch
    from transformers import AutoModelForCausalLM

    first, second = tokenizer.encode(one), tokenizer.encode(other)
    common = next(number for number, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *first[:common]]])
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)(ids).logits[0, -1]
    return abs(float(logits[first[common]] - logits[second[common]]))


@pytest.mark.parametrize("kind", ["vllm", "endpoint"])
def test_same_log_likelihoods_as_transformers(
    kind: str, results: dict[str, tuple[list[tuple[str, int]], list[float]]]
) -> None:
    assert results[kind][1] == pytest.approx(results["transformers"][1], abs=2e-3)


def test_vllm_counts_the_tokens_that_were_written(
    results: dict[str, tuple[list[tuple[str, int]], list[float]]],
) -> None:
    counts = [tokens for _, tokens in results["vllm"][0]]
    reference = [tokens for _, tokens in results["transformers"][0]]
    assert max(counts) <= MAX_NEW_TOKENS
    assert sum(counts) == pytest.approx(sum(reference), rel=0.05)


def test_a_window_longer_than_the_models_is_refused(model: Path, tokenizer: PromptTokenizer, server: str) -> None:
    config = settings("vllm", model, server).model_copy(update={"max_model_len": 1 << 20})
    with pytest.raises(UserError, match=r"engine\.model"):
        load_engine(config, tokenizer)
