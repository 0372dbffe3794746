"""Our sample indices are byte-identical to megatron-core's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from megatron.core.datasets import gpt_dataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.data import sample_indices
from megatron_ipt.data.blends import TokenIds
from megatron_ipt.data.masked_dataset import MaskedGPTDataset

INDICES = ("document", "sample", "shuffle")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = np.random.default_rng(4).integers(0, 60, 500)
    file = tmp_path_factory.mktemp("data") / "data"
    with IndexedWriter(file, 1000) as writer:
        writer.add(np.arange(lengths.sum(), dtype=np.uint32) % 1000, lengths)
    return file


def build(
    kind: type[GPTDataset], prefix: Path, cache: Path, samples: list[int], split: str, seed: int, *, drop: bool = True
) -> list[Any]:
    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=16,
        blend=([str(prefix)], None),
        split=split,
        path_to_cache=str(cache),
        tokenizer=TokenIds(1000, 999, {}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        drop_last_partial_validation_sequence=drop,
    )
    return [part for part in BlendedMegatronDatasetBuilder(kind, samples, lambda: True, config).build() if part]


@pytest.mark.parametrize("seed", [1, 77])
@pytest.mark.parametrize("split", ["1", "80,15,5", "50,50,0"])
@pytest.mark.parametrize(
    "train_samples",
    [100, 900, 925, 1_000, 1_700, 3_333, 9_000],  # from part of an epoch to ten; last epoch short or almost complete
)
def test_indices_are_identical_to_megatron_cores(
    train_samples: int, split: str, seed: int, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_indices, "_CHUNK", 64)
    samples = [train_samples, train_samples // 3, 10]
    with monkeypatch.context() as without:  # megatron-core would build indices that it misses itself
        without.setattr(gpt_dataset, "_build_document_index", None)
        own = build(MaskedGPTDataset, prefix, tmp_path / "own", samples, split, seed)
    reference = build(GPTDataset, prefix, tmp_path / "reference", samples, split, seed)
    assert len(own) == len(reference) >= 1
    for ours, theirs in zip(own, reference, strict=True):
        for name in INDICES:
            found, expected = getattr(ours, f"{name}_index"), getattr(theirs, f"{name}_index")
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
    ours_files, their_files = (sorted(folder.glob("*.npy")) for folder in (tmp_path / "own", tmp_path / "reference"))
    assert sorted(file.read_bytes() for file in ours_files) == sorted(file.read_bytes() for file in their_files)
    assert len(list((tmp_path / "own").glob("*description.txt"))) == len(own)


@pytest.mark.parametrize("drop", [True, False])
def test_rest_of_the_validation_documents_is_a_sample_where_megatron_core_keeps_it(
    drop: bool, prefix: Path, tmp_path: Path
) -> None:
    own, reference = (
        build(kind, prefix, tmp_path / kind.__name__, [100, 10_000, 0], "80,20,0", 1, drop=drop)
        for kind in (MaskedGPTDataset, GPTDataset)
    )
    for ours, theirs in zip(own, reference, strict=True):
        assert np.array_equal(ours.sample_index, theirs.sample_index)
