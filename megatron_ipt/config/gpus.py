"""Peak performance and memory of GPUs, by name.

Source: NVIDIA's data sheets of A100, L4, L40S, H100, H200, GH200 and B200 (nvidia.com). Peaks are for dense matrix
products; half of the value where only the one "with sparsity" is printed. Links are half of the bandwidth that is given
for both directions; PCIe's for boards whose NVLink bridges connect only pairs. Memory is the part that is available to
programs, slightly less than the nominal size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_DRIVER = Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Gpu:
    """Peak throughput of dense matrix products, in TFLOP/s, memory and links; `fp8_tflops` is None without FP8 support.

    `link_gbytes` is the bandwidth from the GPU to another of its node, in one direction, in GB/s: NVLink's, or PCIe's.
    """

    bf16_tflops: float
    fp8_tflops: float | None
    memory_gib: float
    link_gbytes: float

    def peak_tflops(self, *, bf16: bool, fp8: bool) -> float | None:
        """Return the peak in TFLOP/s for the number format of the matrix products; None if it is not known."""
        if fp8:
            return self.fp8_tflops
        return self.bf16_tflops if bf16 else None


GPUS: dict[str, Gpu] = {
    "a100-40gb": Gpu(312.0, None, 39.4, 300.0),
    "a100-80gb": Gpu(312.0, None, 79.1, 300.0),
    "l4": Gpu(121.0, 242.5, 22.0, 32.0),
    "l40s": Gpu(362.0, 733.0, 44.4, 32.0),
    "h100-pcie": Gpu(756.0, 1513.0, 79.1, 64.0),
    "h100-nvl": Gpu(835.5, 1671.0, 93.1, 64.0),
    "h100": Gpu(989.4, 1978.9, 79.1, 450.0),
    "h200": Gpu(989.4, 1978.9, 139.8, 450.0),
    "gh200": Gpu(989.4, 1978.9, 94.5, 450.0),
    "b200": Gpu(2250.0, 4500.0, 178.4, 900.0),
}


def has_gpu() -> bool:
    """Return whether NVIDIA's driver shows a GPU to this process, without the seconds that importing torch takes."""
    return _DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")


def find_gpu(device_name: str, memory_gib: float) -> Gpu | None:
    """Return the GPU that CUDA calls `device_name`, or None if it is not in the table.

    Several entries may fit a name ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3"). Of those
    whose words all occur in it, the one with the most words is taken, then the one with the nearest memory.
    """
    words = set(device_name.lower().replace("-", " ").split())
    fitting = [name for name in GPUS if _model_words(name) <= words]
    if not fitting:
        return None
    return GPUS[min(fitting, key=lambda name: (-len(_model_words(name)), abs(GPUS[name].memory_gib - memory_gib)))]


def _model_words(name: str) -> set[str]:
    return {word for word in name.split("-") if not word.endswith("gb")}
