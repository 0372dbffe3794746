"""A tiny training run with its own data, whose losses are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.observability.metrics import METRICS_NAME, read_metrics
from megatron_ipt.training.environment import set_environment

ITERATIONS, STOPPED_AT = 6, 3
REFERENCE_LOSSES: dict[int, list[float]] = {
    64: [5.552758, 5.329080, 5.152508, 4.922006, 4.661938, 4.535261],
    512: [5.560852, 5.273631, 5.001420, 4.646206, 4.390850, 4.218591],
}
"""The loss of each iteration by batch size, in fp32 on one rank on a CPU; megatron-core 0.16.1 and 0.19.2 agree."""
_VOCAB_SIZE = 256
_EOS = "</s>"


def batch_size_for(world_size: int) -> int:
    """Return the global batch size: one with reference losses if the ranks can share it, else one that they can."""
    shared = (size for size in REFERENCE_LOSSES if size % world_size == 0)
    return next(shared, world_size)


def set_training_environment() -> None:
    """Set the environment variables of the runs, before torch is imported."""
    set_environment(run_config(Path(), "run", world_size=1, on_gpus=True))


def write_data(folder: Path) -> None:
    """Write a tokenizer and an indexed dataset of arithmetic progressions to `folder`."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    vocab = {f"t{index}": index for index in range(_VOCAB_SIZE - 1)} | {_EOS: _VOCAB_SIZE - 1}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    (tokenizer / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": model}), encoding="utf-8")
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"eos_token": _EOS}), encoding="utf-8")
    with IndexedWriter(folder / "documents", _VOCAB_SIZE) as writer:
        for document in range(400):
            length = 40 + document % 100
            tokens = (37 * document + (1 + document % 7) * np.arange(length)) % 250
            writer.add(tokens.astype(np.uint16), np.array([length]))


def run_config(
    folder: Path, name: str, world_size: int, *, on_gpus: bool, **sections: dict[str, Any]
) -> PretrainConfig:
    """Return the configuration of the run `name` in `folder`, with `sections` merged over it."""
    batch_size = batch_size_for(world_size)
    values: dict[str, dict[str, Any]] = {
        "model": {
            "num_layers": 2,
            "hidden_size": 64,
            "ffn_hidden_size": 176,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "vocab_size": _VOCAB_SIZE,
        },
        "data": {
            "tokenizer": str(folder / "tokenizer"),
            "blend": [{"prefix": str(folder / "documents")}],
            "split": "1",
            "seq_length": 32,
        },
        "precision": {"bf16": on_gpus, "deterministic_mode": True},
        "training": {
            "train_iters": ITERATIONS,
            "micro_batch_size": min(16, batch_size // world_size),
            "global_batch_size": batch_size,
            "log_interval": 1,
            "eval_iters": 0,
        },
        "optimizer": {"lr": 1e-2, "min_lr": 1e-3},
        "faults": {"hang_timeout_seconds": 300},
        "tracking": {"tensorboard": False},
    }
    merged = {key: {**values.get(key, {}), **sections.get(key, {})} for key in {*values, *sections}}
    return config_from(PretrainConfig, {"run": str(folder / name), **merged})


def read_losses(run: Path) -> list[dict[str, float]]:
    """Return the loss and the gradient norm of each iteration of a run."""
    rows = [row for row in read_metrics(run / METRICS_NAME) if "lm_loss" in row]
    return [{name: row[name] for name in ("iteration", "lm_loss", "grad_norm")} for row in rows]
