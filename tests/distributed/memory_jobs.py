"""The memory of one step of the trainer's own engine, as a job for the worker pool."""

from __future__ import annotations

from typing import Any


def measure_step(given: dict[str, Any]) -> dict[str, int]:
    """Bytes of this rank: what lasts from step to step, and the most that the forward and backward pass add to it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from megatron_ipt.config.layout import micro_batches_per_step
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.parallel.groups import initialize, shutdown
    from megatron_ipt.training.loss import LossMeter
    from megatron_ipt.training.model_bundle import build_model_bundle
    from megatron_ipt.training.step import ForwardBackward

    config = config_from(PretrainConfig, given)
    groups = initialize(config.parallel, seed=1)
    try:
        bundle = build_model_bundle(config, groups, "local")
        bundle.clock.start()
        samples, length = config.training.micro_batch_size, config.data.seq_length
        micro_batches = micro_batches_per_step(config.training, groups.dp_size)
        step = ForwardBackward(
            bundle,
            LossMeter(groups, ["all"]),
            data_parallel_size=groups.dp_size,
            micro_batch_size=samples,
            seq_length=length,
            per_token=False,
        )
        tokens = torch.randint(0, config.model.vocab_size, (samples, length))
        batch = {
            "tokens": tokens,
            "labels": tokens,
            "position_ids": torch.arange(length).expand_as(tokens),
            "loss_mask": torch.ones(samples, length),
            "attention_mask": None,
            "dataset_id": torch.zeros(samples, dtype=torch.int64),
        }

        def forward_backward() -> None:
            batches = [iter([batch] * micro_batches) for _ in bundle.chunks]
            step(batches, config.training.global_batch_size, forward_only=False)

        forward_backward()  # what the first step makes for good is not counted
        bundle.optimizer.step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            forward_backward()
        return {
            "weights": sum(parameter.nbytes for chunk in bundle.chunks for parameter in chunk.parameters()),
            "gradients": sum(buffer.grad_data.nbytes for chunk in bundle.chunks for buffer in chunk.buffers),
            "optimizer": _optimizer_bytes(bundle.optimizer, bf16=config.precision.bf16),
            "activations": _peak_bytes(profiler.profiler.kineto_results),
        }
    finally:
        shutdown()


def _optimizer_bytes(optimizer: Any, *, bf16: bool) -> int:
    """The moments, and the fp32 weights where the model's own are bf16."""
    adams = [part.optimizer for part in optimizer.chained_optimizers]
    states = [state for adam in adams for state in adam.state.values()]
    moments = sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))
    masters = [weight for adam in adams for group in adam.param_groups for weight in group["params"]]
    return moments + (sum(weight.nbytes for weight in masters) if bf16 else 0)


def _peak_bytes(trace: Any) -> int:
    """The largest sum of what was allocated and not yet given back."""
    changes = sorted((event for event in trace.events() if event.name() == "[memory]"), key=lambda one: one.start_ns())
    held = peak = 0
    for change in changes:
        held += change.nbytes()
        peak = max(peak, held)
    return peak
