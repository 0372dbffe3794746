"""Copies from the host that do not wait for what the device still has to compute."""

from __future__ import annotations

import torch


def copy_to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return `tensor`, which is on the host, on `device`.

    A copy from pageable memory waits for its turn among what is queued on a GPU, and the host with it; from pinned
    memory the host only queues it. torch keeps the pinned memory until the copy is done.
    """
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
