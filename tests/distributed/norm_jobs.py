"""The norm of a projection whose heads tensor ranks share, as a job for the worker pool."""

from __future__ import annotations


def compare_projection_norm(dtype_name: str) -> dict[str, float]:
    """Largest differences of this rank's share from torch's norm of all heads: outputs and gradients."""
    import torch
    from megatron.core.transformer import TransformerConfig
    from torch.nn.functional import rms_norm

    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.models.post_norms import ProjectionRMSNorm
    from megatron_ipt.parallel.groups import initialize, shutdown

    groups = initialize(ParallelConfig(tensor_model_parallel_size=2), seed=1)
    try:
        config = TransformerConfig(
            num_layers=1, hidden_size=32, num_attention_heads=8, kv_channels=4, layernorm_epsilon=0.1
        )
        generator = torch.Generator().manual_seed(0)
        heads, upstream = (torch.randn(5, 2, 8, 4, generator=generator) for _ in range(2))
        heads *= torch.arange(1, 9)[:, None]  # of unlike sizes: each rank alone would find another mean
        weight = torch.rand(8, 4, generator=generator).requires_grad_()
        whole = heads.clone().requires_grad_()
        expected = rms_norm(whole.flatten(2), (32,), weight.flatten(), 0.1).view_as(whole)
        expected.backward(upstream)

        mine = slice(4 * groups.tp_rank, 4 * groups.tp_rank + 4)
        norm = ProjectionRMSNorm(config, 8, groups.tensor)
        norm.weight.data.copy_(weight.detach()[mine].flatten())
        norm.to(getattr(torch, dtype_name))
        share = heads[:, :, mine].to(norm.weight.dtype).requires_grad_()
        found = norm(share)
        assert found.dtype == norm.weight.dtype
        found.backward(upstream[:, :, mine].to(found.dtype))
        assert whole.grad is not None and weight.grad is not None
        pairs = {
            "output": (found.detach(), expected.detach()[:, :, mine]),
            "input gradient": (share.grad, whole.grad[:, :, mine]),
            "weight gradient": (norm.weight.grad, weight.grad[mine].flatten()),
        }
        return {name: float((one.float() - other).abs().max()) for name, (one, other) in pairs.items()}
    finally:
        shutdown()
