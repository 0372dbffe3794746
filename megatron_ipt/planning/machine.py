"""The GPUs of a plan: their memory and the speed assumed of them."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.gpus import GPUS, Gpu
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.validation import suggest
from megatron_ipt.errors import UserError

ASSUMED_MFU = {"bf16": 0.40, "fp8": 0.30}
_PCIE_GBYTES = 32.0
_ACHIEVED_BANDWIDTH = 0.8  # of the nominal one, by large messages
_GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The GPUs of a run.

    Attributes:
        gpus: number of GPUs.
        usable_bytes: memory of each that the run can use.
        peak_tflops: peak of each in the number format of the run.
        mfu: assumed model FLOPs utilization; its product with the peak is the speed.
        gpus_per_node: GPUs that links connect.
        link_bytes_per_second: from a GPU to another of its node.
        network_bytes_per_second: from a GPU to one of another node.
    """

    gpus: int
    usable_bytes: int
    peak_tflops: float
    mfu: float
    gpus_per_node: int
    link_bytes_per_second: float
    network_bytes_per_second: float

    @property
    def flops_per_second(self) -> float:
        """Floating-point operations of one GPU while it computes."""
        return self.peak_tflops * 1e12 * self.mfu


def describe_machine(config: PlanConfig) -> Machine:
    """Read the GPUs from `config`, with what it leaves out from the table of GPU models.

    Raises:
        UserError: the GPU model is not in the table, or does not have the number format of the run.
    """
    if config.gpu_memory_gib is not None and config.gpu_peak_tflops is not None:
        gpu = Gpu(config.gpu_peak_tflops, config.gpu_peak_tflops, config.gpu_memory_gib, _PCIE_GBYTES)
    elif config.gpu in GPUS:
        gpu = GPUS[config.gpu]
    else:
        reason = f"not one of {', '.join(GPUS)}"
        remedy = f"{suggest(config.gpu, list(GPUS))} For another, set gpu_memory_gib and gpu_peak_tflops as well"
        raise UserError("gpu", config.gpu, reason, remedy)
    is_fp8 = config.precision.fp8 is not None
    peak = config.gpu_peak_tflops or gpu.peak_tflops(bf16=config.precision.bf16, fp8=is_fp8)
    if peak is None:
        reason = "it has no FP8" if is_fp8 else "its peak in fp32 is not in the table"
        raise UserError("gpu", config.gpu, reason, "plan in bf16, or set gpu_peak_tflops")
    memory_gib = config.gpu_memory_gib or gpu.memory_gib
    return Machine(
        config.gpus,
        int(memory_gib * _GIB * (1 - config.memory_reserve)),
        peak,
        config.mfu or ASSUMED_MFU["fp8" if is_fp8 else "bf16"],
        config.gpus_per_node,
        (config.gpu_link_gbytes or gpu.link_gbytes) * 1e9 * _ACHIEVED_BANDWIDTH,
        config.network_gbits / 8 * 1e9 * _ACHIEVED_BANDWIDTH,
    )
