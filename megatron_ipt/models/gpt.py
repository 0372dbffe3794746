"""The model chunks of one rank, each a GPTModel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module

from megatron_ipt.config.layout import padded_vocab_size
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.models.documents import DocumentGPTModel
from megatron_ipt.models.kernels import TRANSFORMER_ENGINE, fuse_gradient_accumulation, resolve_transformer_impl
from megatron_ipt.models.layer_specs import block_spec
from megatron_ipt.models.model_family import load_family
from megatron_ipt.models.padded_vocabulary import PaddedGPTModel
from megatron_ipt.models.rope_scaling import gpt_arguments, scale_frequencies
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
    z_loss_coeff: float = 0.0,
) -> list[torch.nn.Module]:
    """Build this rank's part of the model.

    `forward(tokens [batch, seq], position_ids [batch, seq], attention_mask, labels=[batch, seq])` of a chunk returns
    losses [batch, seq] in the last stage, or logits [batch, seq, padded vocabulary / tensor ranks] without labels.

    Args:
        config: `transformer_config(model, parallel, precision)`.
        seq_length: tokens of the longest sample.
        document_attention: mask attention between documents; `position_ids` must restart at each document.
        z_loss_coeff: weight of the z-loss in the gradients.

    Returns:
        One chunk, or one for each virtual stage; in a Float16Module if the run is in bf16.

    Raises:
        UserError: FP8 or Transformer Engine is requested where it cannot run.
    """
    impl = resolve_transformer_impl(precision)
    layer = load_family(model.family).layer_spec(impl)
    vp_stages = parallel.virtual_pipeline_model_parallel_size
    model_class: Callable[..., torch.nn.Module] = PaddedGPTModel
    if document_attention:
        model_class = partial(DocumentGPTModel, packs=impl == TRANSFORMER_ENGINE)
    chunks = []
    for vp_stage in [None] if vp_stages is None else range(vp_stages):
        chunk = model_class(
            config=config,
            transformer_layer_spec=block_spec(layer, impl, config, vp_stage),
            vocab_size=padded_vocab_size(model, parallel),
            used_vocab_size=model.vocab_size,
            z_loss_coeff=z_loss_coeff,
            max_sequence_length=seq_length,
            pre_process=groups.is_first_stage and vp_stage in (None, 0),
            post_process=groups.is_last_stage and (vp_stage is None or vp_stage + 1 == vp_stages),
            share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
            **gpt_arguments(model),
            parallel_output=True,
            pg_collection=groups.collection,
            vp_stage=vp_stage,
        ).to(groups.device)
        scale_frequencies(chunk.rotary_pos_emb, model)
        fuse_gradient_accumulation(chunk)
        chunks.append(Float16Module(config, chunk) if precision.bf16 else chunk)
    return chunks


def unwrapped(chunk: torch.nn.Module) -> GPTModel:
    """Return the GPTModel inside the wrappers for number formats and data parallelism."""
    while not isinstance(chunk, GPTModel):
        chunk = chunk.get_submodule("module")
    return chunk
