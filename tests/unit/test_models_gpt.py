"""The model computes what Mistral computes, whatever implementation is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import MistralConfig, MistralForCausalLM

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.conversion.core_model import CoreModel, build_core_model
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks, unwrapped
from megatron_ipt.models.kernels import resolve_transformer_impl
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.parallel.groups import Groups, seed_generators

SEQ_LENGTH, WINDOW = 48, 16
MODEL = ModelConfig(
    num_layers=3,
    hidden_size=64,
    ffn_hidden_size=160,
    num_attention_heads=8,
    num_query_groups=2,
    vocab_size=512,
    sliding_window=WINDOW,
)


@pytest.fixture(scope="module")
def mistral() -> MistralForCausalLM:
    """A random Mistral whose weights are large enough that attention matters."""
    torch.manual_seed(0)
    hf = MistralForCausalLM(
        MistralConfig(
            vocab_size=MODEL.vocab_size,
            hidden_size=MODEL.hidden_size,
            intermediate_size=MODEL.ffn_hidden_size,
            num_hidden_layers=MODEL.num_layers,
            num_attention_heads=MODEL.num_attention_heads,
            num_key_value_heads=MODEL.num_query_groups,
            sliding_window=WINDOW,
            rms_norm_eps=MODEL.layernorm_epsilon,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.copy_(1 + 0.1 * torch.randn_like(parameter) if "norm" in name else 3 * parameter)
    return hf


@torch.no_grad()
def core_of(hf: MistralForCausalLM, model: ModelConfig, groups: Groups, seq_length: int = SEQ_LENGTH) -> CoreModel:
    core, values = build_core_model(model, groups, bf16=False, seq_length=seq_length), hf.state_dict()
    for weight_map in core.family.weight_maps(model):
        parts = [values[name] for name in weight_map.hf]
        core.parameters()[weight_map.core].copy_(weight_map.transform.to_core(parts, model))
    return core


def tokens() -> torch.Tensor:
    return torch.randint(0, MODEL.vocab_size, (2, SEQ_LENGTH), generator=torch.Generator().manual_seed(3))


def positions() -> torch.Tensor:
    return torch.arange(SEQ_LENGTH).expand(2, -1)


def test_logits_and_gradients_are_mistrals_with_its_window(groups: Groups, mistral: MistralForCausalLM) -> None:
    core = core_of(mistral, MODEL, groups)
    expected = mistral(tokens()).logits
    torch.testing.assert_close(core.chunk(tokens(), positions(), None), expected, atol=2e-5, rtol=0)

    core.chunk(tokens(), positions(), None, labels=tokens()).mean().backward()
    functional.cross_entropy(expected.flatten(0, 1), tokens().flatten()).backward()
    found = core.parameters()["embedding.word_embeddings.weight"].grad
    torch.testing.assert_close(found, mistral.model.embed_tokens.weight.grad, atol=1e-6, rtol=1e-4)


def test_z_loss_is_in_the_gradient_alone(groups: Groups) -> None:
    """Against torch's own logsumexp and cross-entropy on the logits."""

    def gradient_of(coefficient: float, loss_of: Callable[[torch.nn.Module], torch.Tensor]) -> tuple[float, Any]:
        seed_generators(5)
        precision = PrecisionConfig(bf16=False)
        config = transformer_config(MODEL, ParallelConfig(), precision, calculate_per_token_loss=False)
        [chunk] = build_gpt_chunks(
            MODEL, ParallelConfig(), precision, config, groups, SEQ_LENGTH, z_loss_coeff=coefficient
        )
        loss = loss_of(chunk)
        loss.backward()
        return float(loss.detach()), [parameter.grad for parameter in chunk.parameters()]

    def with_labels(chunk: torch.nn.Module) -> torch.Tensor:
        return chunk(tokens(), positions(), None, labels=tokens()).mean()

    def by_torch(chunk: torch.nn.Module) -> torch.Tensor:
        logits = chunk(tokens(), positions(), None).flatten(0, 1)
        return functional.cross_entropy(logits, tokens().flatten()) + 0.1 * logits.logsumexp(dim=-1).square().mean()

    plain, without = gradient_of(0.0, with_labels)
    found, gradients = gradient_of(0.1, with_labels)
    _, expected = gradient_of(0.0, by_torch)
    assert found == plain
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(gradients[0], without[0], rtol=1e-2)


def test_the_window_matters_and_a_long_one_hides_nothing(groups: Groups, mistral: MistralForCausalLM) -> None:
    full = core_of(mistral, MODEL.model_copy(update={"sliding_window": None}), groups)
    long = core_of(mistral, MODEL.model_copy(update={"sliding_window": SEQ_LENGTH}), groups)
    kept = core_of(mistral, MODEL.model_copy(update={"sliding_window": SEQ_LENGTH}), groups, seq_length=SEQ_LENGTH + 1)
    short = core_of(mistral, MODEL, groups)
    logits = [core.chunk(tokens(), positions(), None) for core in (full, long, kept, short)]
    assert unwrapped(long.chunk).config.window_size is None
    assert unwrapped(kept.chunk).config.window_size == (SEQ_LENGTH - 1, 0)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert (logits[0] - logits[3]).abs().max() > 1e-2


def test_the_same_seed_gives_the_same_weights(groups: Groups) -> None:
    parallel, precision = ParallelConfig(), PrecisionConfig(bf16=True)
    found = []
    for seed in (5, 5, 6):
        seed_generators(seed)
        config = transformer_config(MODEL, parallel, precision, calculate_per_token_loss=False)
        [chunk] = build_gpt_chunks(MODEL, parallel, precision, config, groups, SEQ_LENGTH)
        found.append(torch.cat([parameter.flatten() for parameter in chunk.parameters()]))
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine may have what the test lacks")
@pytest.mark.parametrize(
    ("precision", "field"),
    [
        (PrecisionConfig(fp8="hybrid"), "precision.fp8"),
        (PrecisionConfig(transformer_impl="transformer_engine"), "precision.transformer_impl"),
    ],
)
def test_kernels_that_are_not_there_are_refused(precision: PrecisionConfig, field: str) -> None:
    with pytest.raises(UserError) as raised:
        resolve_transformer_impl(precision)
    assert raised.value.problems[0].field == field


def test_layers_of_this_machine() -> None:
    assert resolve_transformer_impl(PrecisionConfig(transformer_impl="local")) == "local"
