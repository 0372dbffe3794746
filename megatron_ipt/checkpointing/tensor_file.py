"""The header and the tensors of a safetensors file as bytes, for writing it tensor by tensor.

The library's own functions take all tensors of a file at once, and hold the GIL while they copy each of them, which
blocks other threads. A file consists of a header, which gives the position of each tensor, and the tensors; for tensors
in the library's order, the bytes are those that the library writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate

import torch

_FORMATS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT_BYTES = 8


def file_header(tensors: Mapping[str, tuple[torch.dtype, torch.Size]]) -> bytes:
    """Return the header of a file that holds tensors of these types and shapes, in this order."""
    ends = list(accumulate(shape.numel() * dtype.itemsize for dtype, shape in tensors.values()))
    places = {
        name: {"dtype": _FORMATS[dtype], "shape": list(shape), "data_offsets": [start, end]}
        for (name, (dtype, shape)), start, end in zip(tensors.items(), [0, *ends], ends, strict=False)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **places}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor on the CPU; they are copied only if it is not contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
