"""Memory use, time spent waiting for data, and the peak throughput of the GPU."""

from __future__ import annotations

import resource
from collections.abc import Sequence

import psutil
import torch

from megatron_ipt.config.gpus import find_gpu
from megatron_ipt.config.pretrain import PrecisionConfig
from megatron_ipt.data.micro_batches import MicroBatches
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.recorder import Interval
from megatron_ipt.training.state import TrainState

_GIB = 2**30


class Gauges(Callback):
    """Records memory and the time spent waiting for data, as the maximum over ranks."""

    name = "gauges"

    def __init__(self, context: RunContext, batches: Sequence[MicroBatches]) -> None:
        self._context, self._batches = context, batches
        self._seen_wait_seconds = 0.0

    def before_report(self, state: TrainState, interval: Interval) -> None:
        """Record the values of this rank."""
        wait_seconds = sum(batches.wait_seconds for batches in self._batches)
        waited, self._seen_wait_seconds = wait_seconds - self._seen_wait_seconds, wait_seconds
        memory, peak = _memory_bytes(self._context.groups.device)
        for name, value in {
            "data_wait_seconds": waited / interval.iterations,
            "data_wait_share": waited / interval.seconds,
            "memory_gib": memory / _GIB,
            "peak_memory_gib": peak / _GIB,
        }.items():
            self._context.record_metric(name, value, "max")


def peak_tflops(device: torch.device, precision: PrecisionConfig) -> float | None:
    """Return the peak TFLOP/s of the GPU in the number format of the run; None on a CPU or an unknown GPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    gpu = find_gpu(properties.name, properties.total_memory / _GIB)
    return None if gpu is None else gpu.peak_tflops(bf16=precision.bf16, fp8=precision.fp8 is not None)


def _memory_bytes(device: torch.device) -> tuple[float, float]:
    """Return current and peak memory: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    resident = psutil.Process().memory_info().rss
    return resident, max(resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
