"""The model of one rank: a GPTModel for each of its pipeline chunks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.models.attention import LocalAttention
from megatron_ipt.models.documents import DocumentGPTModel
from megatron_ipt.models.kernels import TRANSFORMER_ENGINE, fuse_gradient_accumulation, resolve_transformer_impl
from megatron_ipt.parallel.groups import Groups


def build_gpt_chunks(
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    config: TransformerConfig,
    groups: Groups,
    seq_length: int,
    *,
    document_attention: bool = False,
) -> list[torch.nn.Module]:
    """This rank's part of the model: one chunk, or one per virtual stage; in Float16Module where it is bf16.

    `forward(tokens [batch, seq], position_ids [batch, seq], attention_mask, labels=[batch, seq])` gives losses
    [batch, seq] in the last stage, or logits [batch, seq, vocab / tensor ranks] without labels. With
    `document_attention` no token sees another document; positions have to restart at each.
    """
    impl = resolve_transformer_impl(precision)
    stages = parallel.virtual_pipeline_model_parallel_size
    model_class: Any = GPTModel
    if document_attention:
        model_class = partial(DocumentGPTModel, packs=impl == TRANSFORMER_ENGINE)
    chunks = []
    for stage in [None] if stages is None else range(stages):
        chunk: torch.nn.Module = model_class(
            config=config,
            transformer_layer_spec=_layer_spec(impl, config, stage),
            vocab_size=model.vocab_size,
            max_sequence_length=seq_length,
            pre_process=groups.is_first_stage and stage in (None, 0),
            post_process=groups.is_last_stage and (stage is None or stage + 1 == stages),
            share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
            position_embedding_type="rope",
            rotary_base=model.rotary_base,
            parallel_output=True,
            pg_collection=groups.collection,
            vp_stage=stage,
        ).to(groups.device)
        fuse_gradient_accumulation(chunk)
        chunks.append(Float16Module(config, chunk) if precision.bf16 else chunk)
    return chunks


def unwrapped(chunk: Any) -> GPTModel:
    """The GPTModel inside its wrappers for number formats and data parallelism."""
    while not isinstance(chunk, GPTModel):
        chunk = chunk.module
    return chunk


class SequenceParallelRMSNorm(torch.nn.RMSNorm):
    """RMSNorm whose weight gradient megatron-core sums over the tensor ranks, each of which sees part of the sequence.

    megatron-core's own wrapper of torch's norm refuses sequence parallelism.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps)
        mark: Any = self.weight
        mark.sequence_parallel = config.sequence_parallel


def _layer_spec(impl: str, config: TransformerConfig, stage: int | None) -> Any:
    if impl == TRANSFORMER_ENGINE:
        return get_gpt_layer_with_transformer_engine_spec()
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.self_attention.submodules.core_attention = LocalAttention
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = SequenceParallelRMSNorm
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, stage), layer_norm=SequenceParallelRMSNorm
    )
