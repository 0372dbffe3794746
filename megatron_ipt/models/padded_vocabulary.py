"""GPTModel with a vocabulary of any size, padded for tensor parallelism, and with z-loss.

The padding has no effect: its logits are so low that their probability is 0, so it does not change the loss and is
never sampled, and its rows, which are initialized to 0, remain 0. Checkpoints do not contain it, so they do not depend
on the layout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.models.gpt import GPTModel

from megatron_ipt.models.z_loss import z_loss

_ROWS = ("embedding.word_embeddings.weight", "output_layer.weight")


class PaddedGPTModel(GPTModel):
    """A GPTModel with `vocab_size` rows, of which only the first `used_vocab_size` are used."""

    def __init__(self, *arguments: Any, used_vocab_size: int, z_loss_coeff: float = 0.0, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._used_vocab_size, self._z_loss_coeff = used_vocab_size, z_loss_coeff
        if self.vocab_size == used_vocab_size:
            return
        tensor = self.pg_collection.tp
        shard = self.vocab_size // tensor.size()
        used = min(shard, used_vocab_size - tensor.rank() * shard)
        if used == shard:
            return
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name in _ROWS:
                    weight[used:] = 0
        if self.post_process:
            hide: Any = _HidePadding
            self.output_layer.register_forward_hook(
                lambda module, inputs, output: (hide.apply(output[0], used), *output[1:])
            )

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Compute the cross-entropy, (batch, seq); in training, the gradient is that of cross-entropy plus z-loss.

        The value is the cross-entropy alone, so that losses with and without z-loss can be compared.
        """
        if not self._z_loss_coeff or not self.training:
            return super().compute_language_model_loss(labels, logits)
        extra = z_loss(logits, self._z_loss_coeff, self.pg_collection.tp).transpose(0, 1)
        return super().compute_language_model_loss(labels, logits) + (extra - extra.detach())

    def sharded_state_dict(self, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """Return the sharded state of GPTModel without the rows of padding."""
        state: dict[str, Any] = super().sharded_state_dict(*arguments, **settings)
        if self.vocab_size == self._used_vocab_size:
            return state
        return {
            key: _without_padding(value, self._used_vocab_size) if key.endswith(_ROWS) else value
            for key, value in state.items()
        }


class _HidePadding(torch.autograd.Function):
    """Overwrites the logits of padding. Their gradient is 0, like their probability, and is passed on unchanged."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, used: int) -> torch.Tensor:
        ctx.mark_dirty(logits)
        logits[..., used:] = torch.finfo(logits.dtype).min  # not -inf: the softmax of only padding would be NaN
        return logits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def _without_padding(rows: ShardedTensor, used_vocab_size: int) -> ShardedTensorFactory:
    """Return a factory that saves and loads `rows`, a rank's share of [vocabulary, hidden], without the padding."""

    def build(key: str, tensor: torch.Tensor, replica_id: Any, _: slice | None) -> dict[str, ShardedTensor]:
        used = tensor[: used_vocab_size - rows.global_offset[0]]
        described = replace(
            rows,
            key=key,
            data=used,
            dtype=used.dtype,
            local_shape=tuple(used.shape),
            global_shape=(used_vocab_size, *rows.global_shape[1:]),
            axis_fragmentations=None,  # the last rank's part may be smaller
            replica_id=replica_id,
        )
        return {"used": described}

    def merge(loaded: dict[str, torch.Tensor]) -> torch.Tensor:
        used = loaded["used"]
        return torch.nn.functional.pad(used, (0, 0, 0, rows.local_shape[0] - len(used)))

    return ShardedTensorFactory(rows.key, rows.data, build, merge, rows.replica_id)
