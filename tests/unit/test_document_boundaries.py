"""Packed samples in the model: with reset_attention_mask, no document influences the next one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import BlendEntry, DataConfig, ParallelConfig, PrecisionConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.models.gpt import build_gpt_chunks
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.parallel.groups import Groups

VOCABULARY, EOS, SEQ_LENGTH, LENGTH = 64, 63, 32, 9
MODEL = ModelConfig(num_layers=2, hidden_size=32, ffn_hidden_size=64, num_attention_heads=4, num_query_groups=2)
CHANGED = 3  # the index of the changed document


def model(groups: Groups, *, document_attention: bool, sliding_window: int | None = None) -> torch.nn.Module:
    parallel, precision = ParallelConfig(), PrecisionConfig(bf16=False)
    shape = ModelConfig(**{**vars(MODEL), "vocab_size": VOCABULARY, "sliding_window": sliding_window})
    torch.manual_seed(5)
    [chunk] = build_gpt_chunks(
        shape,
        parallel,
        precision,
        transformer_config(shape, parallel, precision, calculate_per_token_loss=False),
        groups,
        SEQ_LENGTH,
        document_attention=document_attention,
    )
    return chunk


def samples(folder: Path, *, changed: bool, reset: bool) -> list[dict[str, torch.Tensor]]:
    """Samples of documents that end with EOS; document 3 has other tokens if `changed`."""
    ids = np.random.default_rng(2).integers(0, EOS, (20, LENGTH)).astype(np.uint32)
    ids[:, -1] = EOS
    if changed:
        ids[CHANGED, :-1] = (ids[CHANGED, :-1] + 7) % EOS
    folder.mkdir()
    with IndexedWriter(folder / "data", VOCABULARY) as writer:
        writer.add(ids.ravel(), np.full(len(ids), LENGTH))
    data = DataConfig(
        tokenizer="",
        blend=[BlendEntry(prefix=str(folder / "data"))],
        split="1",
        seq_length=SEQ_LENGTH,
        reset_attention_mask=reset,
    )
    train, _ = build_datasets(
        data,
        TokenIds(VOCABULARY, EOS, {}),
        train_samples=5,
        valid_samples=0,
        seed=1,
        index_cache=str(folder / "cache"),
        is_built_on_rank=lambda: True,
    )
    return [train[number] for number in range(5)]


def logits(built: torch.nn.Module, sample: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = built(sample["tokens"][None], sample["position_ids"][None], None)[0]
    return found


def reach(folder: Path, groups: Groups, *, reset: bool) -> tuple[list[int], list[int]]:
    """Count tokens that were changed or follow in the same document, and other tokens whose logits differ."""
    built = model(groups, document_attention=reset)
    within, beyond = [], []
    pairs = zip(
        samples(folder / "old", changed=False, reset=reset),
        samples(folder / "new", changed=True, reset=reset),
        strict=True,
    )
    for old, new in pairs:
        differs = (logits(built, old) != logits(built, new)).any(dim=1)
        document = (old["tokens"] == EOS).long().cumsum(dim=0) - (old["tokens"] == EOS).long()
        touched = document[old["tokens"] != new["tokens"]].unique()
        for place in differs.nonzero().flatten().tolist():
            (within if document[place] in touched else beyond).append(place)
    return within, beyond


def test_changed_document_changes_only_its_own_logits(groups: Groups, tmp_path: Path) -> None:
    within, beyond = reach(tmp_path, groups, reset=True)
    assert len(within) >= LENGTH - 1 and beyond == []


def test_without_reset_a_changed_document_changes_later_logits(groups: Groups, tmp_path: Path) -> None:
    _, beyond = reach(tmp_path, groups, reset=False)
    assert len(beyond) > LENGTH


@pytest.mark.parametrize("sliding_window", [None, 4])
def test_document_in_a_sample_has_the_same_logits_as_alone(
    sliding_window: int | None, groups: Groups, tmp_path: Path
) -> None:
    built = model(groups, document_attention=True, sliding_window=sliding_window)
    for sample in samples(tmp_path / "data", changed=False, reset=True):
        packed = logits(built, sample)
        ends = [-1, *(sample["tokens"] == EOS).nonzero().flatten().tolist()]
        assert len(ends) > 3
        for start, stop in itertools.pairwise(ends):
            tokens = sample["tokens"][start + 1 : stop + 1]
            assert sample["position_ids"][start + 1 : stop + 1].tolist() == list(range(len(tokens)))
            alone = logits(built, {"tokens": tokens, "position_ids": torch.arange(len(tokens))})
            torch.testing.assert_close(packed[start + 1 : stop + 1], alone, rtol=1e-5, atol=1e-6)
