"""The GPUs of a plan: their memory and assumed speed."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.gpus import GPUS, Gpu
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.validation import suggest
from megatron_ipt.errors import UserError

ASSUMED_MFU = {"bf16": 0.40, "fp8": 0.30}
_PCIE_GBYTES = 32.0
_ACHIEVED_BANDWIDTH = 0.8  # share of the nominal bandwidth that large messages achieve
_GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The GPUs of a run.

    Attributes:
        gpus: number of GPUs.
        usable_bytes: memory per GPU that the run can use.
        peak_tflops: peak per GPU in the number format of the run.
        mfu: assumed model FLOPs utilization; the speed is the peak times this.
        gpus_per_node: GPUs per node.
        link_bytes_per_second: bandwidth between GPUs of a node.
        network_bytes_per_second: bandwidth between GPUs of different nodes, per GPU.
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
        """Floating-point operations per second of one GPU while it computes."""
        return self.peak_tflops * 1e12 * self.mfu


def describe_machine(config: PlanConfig) -> Machine:
    """Return the GPUs of `config`; values that are not set come from the table of GPU models.

    Raises:
        UserError: the GPU model is not in the table, or does not support the number format of the run.
    """
    if config.gpu_memory_gib is not None and config.gpu_peak_tflops is not None:
        gpu = Gpu(config.gpu_peak_tflops, config.gpu_peak_tflops, config.gpu_memory_gib, _PCIE_GBYTES)
    elif config.gpu in GPUS:
        gpu = GPUS[config.gpu]
    else:
        reason = f"not one of {', '.join(GPUS)}"
        remedy = f"{suggest(config.gpu, list(GPUS))} For another model, set gpu_memory_gib and gpu_peak_tflops"
        raise UserError("gpu", config.gpu, reason, remedy)
    is_fp8 = config.precision.fp8 is not None
    peak = config.gpu_peak_tflops or gpu.peak_tflops(bf16=config.precision.bf16, fp8=is_fp8)
    if peak is None:
        reason = "it does not support FP8" if is_fp8 else "its peak in fp32 is not in the table"
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
