"""Packed sequences: the documents in the concatenated samples of a micro-batch, which begin where positions restart."""

from __future__ import annotations

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_ipt.parallel.host_copies import copy_to_device

_LENGTH_UNIT = 128  # tokens


def pack_documents(position_ids: torch.Tensor, device: torch.device) -> PackedSeqParams:
    """Describe the concatenated samples of `position_ids`, which is on the host, for attention on `device`.

    The longest document determines the kernels that Transformer Engine may use, and their workspace. Its length is
    rounded up, because cuDNN builds an execution plan for each length.
    """
    starts = document_starts(position_ids)
    longest = int(starts.diff().max())
    limit = min(position_ids.shape[1], -(-longest // _LENGTH_UNIT) * _LENGTH_UNIT)
    offsets = copy_to_device(starts, device)
    return PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=offsets, cu_seqlens_kv=offsets, max_seqlen_q=limit, max_seqlen_kv=limit
    )


def document_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """Return the offsets of the documents in the concatenated samples, and the total length; int32, [documents + 1]."""
    flat = position_ids.flatten()
    return torch.cat([(flat == 0).nonzero().flatten(), torch.tensor([flat.numel()])]).int()
