"""A tiny training run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from megatron_ipt.observability.metrics import read_metrics

VOCAB_SIZE = 256


def tiny_config(dataset: dict[str, str], run: str | Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A tiny fp32 Mistral on that dataset; `sections` are merged over the defaults."""
    config: dict[str, Any] = {
        "run": str(run),
        "model": {
            "num_layers": 4,
            "hidden_size": 64,
            "ffn_hidden_size": 176,
            "num_attention_heads": 8,
            "num_query_groups": 4,
            "vocab_size": VOCAB_SIZE,
        },
        "data": {
            "tokenizer": dataset["tokenizer"],
            "blend": [{"prefix": dataset["prefix"]}],
            "split": "90,10,0",
            "seq_length": 32,
        },
        "precision": {"bf16": False},
        "training": {
            "train_iters": 20,
            "micro_batch_size": 2,
            "global_batch_size": 8,
            "log_interval": 1,
            "eval_interval": 100,
            "eval_iters": 1,
        },
        "optimizer": {"lr": 1e-3, "min_lr": 1e-4},
        "schedule": {"lr_warmup_iters": 2},
        "checkpoint": {"keep_last": 0},
        "tracking": {"tensorboard": False},
    }
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    return config


def losses(run: str | Path) -> list[float]:
    """The training loss of each iteration of a run; NaN where there was none."""
    rows = read_metrics(Path(run) / "metrics.jsonl")
    return [row.get("lm_loss", math.nan) for row in rows if "step_seconds" in row]
