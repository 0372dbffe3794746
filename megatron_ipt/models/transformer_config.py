"""Translation of the configuration to megatron-core's TransformerConfig."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.models.kernels import TRANSFORMER_ENGINE, resolve_transformer_impl
from megatron_ipt.models.model_family import load_family
from megatron_ipt.models.rope_scaling import rope_layers, yarn_attributes
from megatron_ipt.parallel.cpu_backend import CPU_TRANSFORMER_CONFIG


def transformer_config(
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    *,
    calculate_per_token_loss: bool,
    seq_length: int | None = None,
) -> TransformerConfig:
    """Translate a model, its layout and its number formats to megatron-core's configuration.

    Args:
        calculate_per_token_loss: whether gradients are divided by the number of tokens of the whole batch instead of
            averaged over micro-batches.
        seq_length: tokens of the longest sample, if known. A sliding window of at least that length has no effect and
            is left out, so that plain causal attention and masks between documents remain possible.

    Raises:
        UserError: FP8 or Transformer Engine is requested where it cannot run.
    """
    impl = resolve_transformer_impl(precision)
    dtype = torch.bfloat16 if precision.bf16 else torch.float32
    config = TransformerConfig(
        **load_family(model.family).transformer_settings(),
        **_shape(model, seq_length),
        **_layout(parallel),
        **(_kernels(impl, parallel, precision) | _rope_kernel(model)),
        **_fp8(precision),
        bf16=precision.bf16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        calculate_per_token_loss=calculate_per_token_loss,
    )
    for name, value in yarn_attributes(model).items():
        setattr(config, name, value)
    return config


def _shape(model: ModelConfig, seq_length: int | None) -> dict[str, Any]:
    window = model.sliding_window
    hides_tokens = window is not None and (seq_length is None or window < seq_length)
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.head_dim,
        # Mistral's window includes the token itself, megatron-core's only the tokens to its left
        "window_size": (window - 1, 0) if window is not None and hides_tokens else None,
        "no_rope_freq": layers_without_rope(model),
        "layernorm_epsilon": model.layernorm_epsilon,
        "attention_dropout": model.attention_dropout,
        "hidden_dropout": model.hidden_dropout,
        "init_method_std": model.init_method_std,
    }


def layers_without_rope(model: ModelConfig) -> list[int] | None:
    """Return 1 for each layer without RoPE and 0 for the others; None if all layers have RoPE."""
    if model.no_rope_freq is None:
        return None
    return [1 - has_rope for has_rope in rope_layers(model.num_layers, model.no_rope_freq)]


def _layout(parallel: ParallelConfig) -> dict[str, Any]:
    interleaved = parallel.virtual_pipeline_model_parallel_size is not None
    return {
        "tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "num_layers_in_first_pipeline_stage": parallel.num_layers_in_first_pipeline_stage,
        "num_layers_in_last_pipeline_stage": parallel.num_layers_in_last_pipeline_stage,
        "virtual_pipeline_model_parallel_size": parallel.virtual_pipeline_model_parallel_size,
        "context_parallel_size": parallel.context_parallel_size,
        # one of Transformer Engine's methods to exchange keys and values that also supports sliding windows
        "cp_comm_type": "all_gather" if parallel.context_parallel_size > 1 else None,
        "sequence_parallel": bool(parallel.sequence_parallel) and parallel.tensor_model_parallel_size > 1,
        # batched sends of the interleaved schedule deliver wrong activations over gloo (megatron-core 0.16)
        "overlap_p2p_comm": interleaved,
        "batch_p2p_comm": not interleaved,
        **_recomputation(parallel),
    }


def _recomputation(parallel: ParallelConfig) -> dict[str, Any]:
    if parallel.recompute_granularity != "full":
        modules = parallel.recompute_modules
        return {"recompute_granularity": parallel.recompute_granularity, "recompute_modules": modules and [*modules]}
    return {
        "recompute_granularity": "full",
        "recompute_method": parallel.recompute_method or "uniform",
        "recompute_num_layers": parallel.recompute_num_layers or 1,
    }


def _kernels(impl: str, parallel: ParallelConfig, precision: PrecisionConfig) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return CPU_TRANSFORMER_CONFIG
    return {
        "transformer_impl": impl,
        "attention_backend": AttnBackend[precision.attention_backend],
        "deterministic_mode": precision.deterministic_mode,
        "tp_comm_overlap": parallel.tp_comm_overlap,
        "cuda_graph_impl": precision.cuda_graph_impl,
        # the LM head is megatron-core's own layer in both implementations; with this setting it needs apex's kernel,
        # and raises without it
        "gradient_accumulation_fusion": find_spec("fused_weight_gradient_mlp_cuda") is not None,
        "masked_softmax_fusion": False,
        "persist_layer_norm": impl == TRANSFORMER_ENGINE,
        "bias_activation_fusion": True,
        "bias_dropout_fusion": True,
        "apply_rope_fusion": impl == TRANSFORMER_ENGINE,
        "cross_entropy_loss_fusion": not precision.deterministic_mode,
        "cross_entropy_fusion_impl": "te" if impl == TRANSFORMER_ENGINE else "native",
    }


def _rope_kernel(model: ModelConfig) -> dict[str, Any]:
    """Disable the fused RoPE kernel for YaRN: it ignores the attention factor in packed samples (0.16)."""
    return {"apply_rope_fusion": False} if model.rope_type == "yarn" else {}


def _fp8(precision: PrecisionConfig) -> dict[str, Any]:
    if precision.fp8 is None:
        return {}
    history = (
        {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"} if precision.fp8_recipe == "delayed" else {}
    )
    return {
        "fp8": precision.fp8,
        "fp8_recipe": precision.fp8_recipe,
        "fp8_param": precision.fp8_param_gather,
        "first_last_layers_bf16": precision.first_last_layers_bf16,
        "num_layers_at_start_in_bf16": precision.num_layers_at_start_in_bf16,
        "num_layers_at_end_in_bf16": precision.num_layers_at_end_in_bf16,
        **history,
    }
