"""Questions and answers to a tuned synthesizer, through the command lines; its loss is what transformers computes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import write_small_mistral
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM

from megatron_ipt.cli import build_tuning_set, convert_checkpoint, pretrain_gpt
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.observability.metrics import read_metrics

pytestmark = [pytest.mark.e2e, pytest.mark.full]
SEQ_LENGTH, BATCH, BOS, EOS = 256, 4, 1, 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mistral over bytes: one token a letter."""
    folder = tmp_path_factory.mktemp("base")
    return write_small_mistral(folder, max_position_embeddings=512, sliding_window=None)


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps from that Mistral on sixty contexts."""
    folder = tmp_path_factory.mktemp("tuned")
    rows = [
        {
            "context": f"House {n} is {'red' if n % 3 else 'blue'}.",
            "QA_list": [{"Q": f"What is house {n}?", "A": "red" if n % 3 else "blue"}] * (1 + n % 2),
        }
        for n in range(60)
    ]
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    collections = json.dumps([{"name": "houses", "input": [str(folder / "qa.jsonl")]}])
    settings = [f"collections={collections}", f"output={folder / 'set'}", f"tokenizer={base}"]
    assert build_tuning_set.main([*settings, f"seq_length={SEQ_LENGTH}", "heldout_contexts=4"]) == 0
    assert convert_checkpoint.main(["hf-to-mcore", "--input", str(base), "--output", str(folder / "start")]) == 0
    config = {
        "run": str(folder / "run"),
        "model": load_config(PretrainConfig, folder / "start" / "run_config.yaml").model.__dict__,
        "data": {
            "tokenizer": str(base),
            "blend": [{"prefix": str(folder / "set" / "tuning_text_document")}],
            "split": "80,20,0",
            "seq_length": SEQ_LENGTH,
        },
        "precision": {"bf16": False},
        "training": {
            "train_iters": 6,
            "micro_batch_size": 2,
            "global_batch_size": BATCH,
            "log_interval": 1,
            "eval_interval": 6,
            "eval_iters": 2,
            "calculate_per_token_loss": True,
        },
        "optimizer": {"lr": 3e-3, "min_lr": 3e-4},
        "schedule": {"lr_warmup_iters": 1},
        "checkpoint": {"pretrained_checkpoint": str(folder / "start" / "checkpoints" / "iter_0000000")},
        "tracking": {"tensorboard": False},
    }
    (folder / "pretrain.yaml").write_text(json.dumps(config))
    assert pretrain_gpt.main(["--config", str(folder / "pretrain.yaml")]) == 0
    return folder / "run"


def samples(run: Path) -> tuple[Any, Any]:
    """The training and the validation samples of the run."""
    config = load_config(PretrainConfig, run / "run_config.yaml")
    return build_datasets(
        config.data,
        TokenIds(300, EOS, {}),
        train_samples=config.training.train_iters * BATCH,
        valid_samples=config.training.eval_iters * BATCH,
        seed=config.training.seed,
        index_cache=str(run / "another_cache"),
        is_built_on_rank=lambda: True,
    )


def spans_with_loss(ids: list[int], base: Path) -> np.ndarray:
    """The pairs and the EOS behind them, found in the text: a token is a letter here."""
    vocabulary = Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab()
    letters = {number: token for token, number in vocabulary.items()} | {BOS: "\x01", EOS: "\x02"}
    text = "".join(letters[number] for number in ids)
    mask = np.zeros(len(ids), dtype=bool)
    for found in re.finditer("</CON>ĊĊ(<QUE>[^\x01\x02]*</END>\x02)", text):
        mask[found.start(1) : found.end(1)] = True
    return mask


def expected_loss(model: Path, base: Path, drawn: list[dict[str, torch.Tensor]]) -> float:
    """Mean over the tokens with loss, in nats, by transformers alone."""
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    losses = []
    for sample in drawn:
        mask = spans_with_loss([*sample["tokens"].tolist(), int(sample["labels"][-1])], base)[1:]
        with torch.no_grad():
            logits = hf(sample["tokens"][None]).logits[0]
        losses.append(functional.cross_entropy(logits[mask], sample["labels"][mask], reduction="none"))
    return torch.cat(losses).mean().item()


def test_losses_are_those_of_transformers_on_the_pairs(base: Path, run: Path, tmp_path: Path) -> None:
    train, valid = samples(run)
    rows = list(read_metrics(run / "metrics.jsonl"))
    first = next(row["lm_loss"] for row in rows if "lm_loss" in row)
    before, after = [row["validation_loss"] for row in rows if "validation_loss" in row]
    seen = [valid[number] for number in range(2 * BATCH)]
    assert first == pytest.approx(expected_loss(base, base, [train[number] for number in range(BATCH)]), abs=2e-5)
    assert before == pytest.approx(expected_loss(base, base, seen), abs=2e-5)

    tuned = tmp_path / "hf"
    assert convert_checkpoint.main(["mcore-to-hf", "--input", str(run), "--output", str(tuned)]) == 0
    assert after == pytest.approx(expected_loss(tuned, base, seen), abs=2e-5)
    assert after < before - 0.5
