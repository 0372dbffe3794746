"""Copies from the host to the device that do not wait for queued work."""

from __future__ import annotations

import torch


def copy_to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return `tensor`, which is on the host, on `device`.

    A copy from pageable memory blocks the host until all work queued on the GPU before it is done; a copy from pinned
    memory is only queued. torch keeps the pinned memory until the copy is done.
    """
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
