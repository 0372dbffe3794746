"""Megatron-LM's own pre-training script, run with the model, batch size and kernels of one of our runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.config.pretrain import PretrainConfig

_STEP = re.compile(r"iteration +(\d+)/.*elapsed time per iteration \(ms\): ([\d.]+) \|.* lm loss: ([\d.E+-]+) \|")
_MEMORY = re.compile(r"max allocated: ([\d.]+)")


def peer_arguments(config: PretrainConfig, cache: Path) -> list[str]:
    """Return the arguments with which Megatron-LM's `pretrain_gpt.py` does the same as a run of `config`."""
    model, training, optimizer = config.model, config.training, config.optimizer
    values = {
        "num-layers": model.num_layers,
        "hidden-size": model.hidden_size,
        "ffn-hidden-size": model.ffn_hidden_size,
        "num-attention-heads": model.num_attention_heads,
        "num-query-groups": model.num_query_groups,
        "kv-channels": model.head_dim,
        "max-position-embeddings": model.max_position_embeddings,
        "rotary-base": int(model.rotary_base),
        "norm-epsilon": model.layernorm_epsilon,
        "init-method-std": model.init_method_std,
        "attention-dropout": model.attention_dropout,
        "hidden-dropout": model.hidden_dropout,
        "position-embedding-type": "rope",
        "normalization": "RMSNorm",
        "seq-length": config.data.seq_length,
        "data-path": config.data.blend[0].prefix,
        "data-cache-path": cache,
        "split": config.data.split,
        "tokenizer-type": "HuggingFaceTokenizer",
        "tokenizer-model": config.data.tokenizer,
        "make-vocab-size-divisible-by": 1,
        "micro-batch-size": training.micro_batch_size,
        "global-batch-size": training.global_batch_size,
        "train-iters": training.train_iters,
        "log-interval": training.log_interval,
        "seed": training.seed,
        "eval-iters": 0,
        "lr": optimizer.lr,
        "min-lr": optimizer.min_lr,
        "lr-decay-style": config.schedule.lr_decay_style,
        "lr-warmup-iters": config.schedule.lr_warmup_iters,
        "weight-decay": optimizer.weight_decay,
        "adam-beta1": optimizer.adam_beta1,
        "adam-beta2": optimizer.adam_beta2,
        "clip-grad": optimizer.clip_grad,
        "transformer-impl": "transformer_engine",
        "attention-backend": config.precision.attention_backend,
        "cross-entropy-fusion-impl": "te",
    }
    switches = [
        "group-query-attention",
        "swiglu",
        "disable-bias-linear",
        "untie-embeddings-and-output-weights",
        "bf16",
        "no-gradient-accumulation-fusion",  # it would require apex for the LM head
        "cross-entropy-loss-fusion",
        "use-distributed-optimizer",
        "overlap-grad-reduce",
        "overlap-param-gather",
    ]
    if config.precision.fp8 is not None:
        values |= {"fp8-format": config.precision.fp8, "fp8-recipe": config.precision.fp8_recipe}
        if config.precision.fp8_recipe == "delayed":
            values |= {"fp8-amax-history-len": 1024, "fp8-amax-compute-algo": "max"}
    valued = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    return [*valued, *(f"--{name}" for name in switches)]


def read_log(text: str, tokens_per_step: int, skipped: int) -> dict[str, Any]:
    """Parse throughput, memory and losses from Megatron-LM's log; throughput excludes the first `skipped` lines."""
    steps = [(int(step), float(milliseconds), float(loss)) for step, milliseconds, loss in _STEP.findall(text)]
    seconds = statistics.median(milliseconds for _, milliseconds, _ in steps[skipped:]) / 1e3
    return {
        "tokens_per_second": tokens_per_step / seconds,
        "peak_memory_gib": max((float(megabytes) for megabytes in _MEMORY.findall(text)), default=0.0) / 1024,
        "losses": {step: loss for step, _, loss in steps},
    }


def peer_command(python: str, checkout: Path, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs one rank of Megatron-LM with torchrun."""
    return [
        python,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "1",
        str(checkout / "pretrain_gpt.py"),
        *arguments,
    ]
