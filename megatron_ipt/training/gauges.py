"""What a rank needs besides arithmetic: memory, and time spent waiting for data."""

from __future__ import annotations

import resource
from collections.abc import Sequence

import psutil
import torch
import torch.distributed as dist

from megatron_ipt.config.gpus import find_gpu
from megatron_ipt.config.pretrain import PrecisionConfig
from megatron_ipt.data.micro_batches import MicroBatches

_GIB = 2**30


class Gauges:
    """Read together on all ranks; the largest reading counts."""

    def __init__(self, batches: Sequence[MicroBatches], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._waited_seconds = 0.0

    def read(self, seconds: float, iterations: int) -> dict[str, float]:
        """Figures of the last `iterations` steps, which took `seconds`; a collective call."""
        waited = sum(batches.wait_seconds for batches in self._batches)
        readings = torch.tensor(
            [waited - self._waited_seconds, *_memory(self._device)], dtype=torch.float64, device=self._device
        )
        self._waited_seconds = waited
        dist.all_reduce(readings, dist.ReduceOp.MAX)
        data_seconds, memory, peak = readings.tolist()
        return {
            "data_wait_seconds": data_seconds / iterations,
            "data_wait_share": data_seconds / seconds,
            "memory_gib": memory / _GIB,
            "peak_memory_gib": peak / _GIB,
        }


def peak_tflops(device: torch.device, precision: PrecisionConfig) -> float | None:
    """What the GPU can do at most in the run's number format; None on a CPU or an unknown GPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    gpu = find_gpu(properties.name, properties.total_memory / _GIB)
    return None if gpu is None else gpu.peak_tflops(bf16=precision.bf16, fp8=precision.fp8 is not None)


def _memory(device: torch.device) -> tuple[float, float]:
    """Bytes now and at most so far: tensors on a GPU, on a CPU the whole process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    resident = psutil.Process().memory_info().rss
    return resident, max(resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
