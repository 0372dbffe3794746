"""SHA-256 of every tensor in a checkpoint, optimizer state included, as JSON: `weight_hashes.py ITER_FOLDER`."""

from __future__ import annotations

import hashlib
import json
import sys

import torch
from megatron.core import dist_checkpointing

from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.parallel.groups import initialize, shutdown

initialize(ParallelConfig(), seed=1)
tensors = dist_checkpointing.load_plain_tensors(sys.argv[1])
hashes = {
    name: hashlib.sha256(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
    for name, tensor in tensors.items()
    if isinstance(tensor, torch.Tensor)
}
shutdown()
print(json.dumps(hashes))
