"""The indexed dataset on disk, compared with megatron-core's builder and reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

from megatron_ipt.corpus.indexed_writer import IndexedWriter, check_indexed_dataset, optimal_dtype
from megatron_ipt.data.blends import TokenIds
from megatron_ipt.errors import UserError

LENGTHS = {
    "none empty": [3, 1, 7, 200],
    "empty first": [0, 0, 5, 2],
    "empty last": [4, 9, 0, 0],
    "empty amid": [1, 0, 0, 0, 300, 0, 2],
    "one": [1],
}


def documents(lengths: list[int], vocab_size: int) -> list[np.ndarray]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(0, vocab_size, length, np.uint32) for length in lengths]


def write(prefix: Path, texts: list[np.ndarray], vocab_size: int, batch: int = 2) -> None:
    with IndexedWriter(prefix, vocab_size) as writer:
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            writer.add(np.concatenate(part), np.array([len(text) for text in part]))


@pytest.mark.parametrize("vocab_size", [32_000, 65_499, 65_500, 128_256])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_files_are_identical_to_megatron_cores(lengths: list[int], vocab_size: int, tmp_path: Path) -> None:
    texts = documents(lengths, vocab_size)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), DType.optimal_dtype(vocab_size))
    for text in texts:
        builder.add_document(torch.from_numpy(text.astype(np.int64)), [len(text)])
    builder.finalize(str(tmp_path / "theirs.idx"))

    write(tmp_path / "ours", texts, vocab_size)

    for ending in ("bin", "idx"):
        assert (tmp_path / f"ours.{ending}").read_bytes() == (tmp_path / f"theirs.{ending}").read_bytes()
    read = IndexedDataset(str(tmp_path / "ours"))
    assert len(read) == len(texts)
    assert all(np.array_equal(read[index], text) for index, text in enumerate(texts))
    check_indexed_dataset(tmp_path / "ours", vocab_size)


def test_dtype_matches_megatron_core() -> None:
    for vocab_size in (1, 65_499, 65_500, 200_000):
        assert optimal_dtype(vocab_size) == np.dtype(DType.optimal_dtype(vocab_size))


@pytest.mark.parametrize("part", [0, 1], ids=["train", "valid"])
def test_gpt_dataset_skips_documents_of_length_zero(part: int, tmp_path: Path) -> None:
    texts = documents([0, 40, 0, 0, 25, 0, 60, 0, 0], 1000)
    write(tmp_path / "data", texts, 1000)
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=16,
        blend=([str(tmp_path / "data")], None),
        split=",".join("1" if index == part else "0" for index in range(3)),
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=TokenIds(1000, 2, {"tokenizer": "none"}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    sizes = [30 if index == part else 0 for index in range(3)]
    dataset = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[part]
    ids = set(np.concatenate(texts).tolist())
    samples = [dataset[index] for index in range(len(dataset))]
    assert len(samples) >= 30
    for sample in samples:
        assert sample["tokens"].shape == (16,)
        assert set(sample["tokens"].tolist()) <= ids


def test_final_names_do_not_exist_before_the_end(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with IndexedWriter(tmp_path / "data", 1000) as writer:
            writer.add(np.arange(5, dtype=np.uint32), np.array([5]))
            assert not list(tmp_path.glob("data.*"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert not list(tmp_path.iterdir())


def truncate(file: Path, missing_bytes: int) -> None:
    file.write_bytes(file.read_bytes()[:-missing_bytes])


def append(file: Path, content: bytes) -> None:
    file.write_bytes(file.read_bytes() + content)


def overwrite(file: Path, place: int, content: bytes) -> None:
    old = file.read_bytes()
    file.write_bytes(old[:place] + content + old[place + len(content) :])


DAMAGES = {
    "truncated bin": (lambda prefix: truncate(prefix.with_suffix(".bin"), 1), "truncated"),
    "bin grown": (lambda prefix: append(prefix.with_suffix(".bin"), b"xx"), "too long"),
    "truncated idx": (lambda prefix: truncate(prefix.with_suffix(".idx"), 8), "truncated"),
    "idx header only": (lambda prefix: truncate(prefix.with_suffix(".idx"), 90), "not the index"),
    "wrong magic": (lambda prefix: overwrite(prefix.with_suffix(".idx"), 0, b"X"), "not the index"),
    "wrong version": (lambda prefix: overwrite(prefix.with_suffix(".idx"), 9, b"\x07"), "version 7"),
    "wrong dtype": (lambda prefix: overwrite(prefix.with_suffix(".idx"), 17, b"\x63"), "dtype code 99"),
    "damaged length": (lambda prefix: overwrite(prefix.with_suffix(".idx"), 34, b"\x09"), "lengths and offsets"),
    "damaged bound": (lambda prefix: overwrite(prefix.with_suffix(".idx"), 34 + 3 * 12, b"\x01"), "document bounds"),
    "id too large": (lambda prefix: overwrite(prefix.with_suffix(".bin"), 4, b"\xe8\x03"), "the id 1000"),
    "no bin": (lambda prefix: prefix.with_suffix(".bin").unlink(), "no such file"),
    "no idx": (lambda prefix: prefix.with_suffix(".idx").unlink(), "no such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_detected(damage: str, tmp_path: Path) -> None:
    prefix = tmp_path / "data"
    write(prefix, documents([4, 0, 6], 1000), 1000)
    check_indexed_dataset(prefix, 1000)
    do_damage, said = DAMAGES[damage]
    do_damage(prefix)
    with pytest.raises(UserError, match=said):
        check_indexed_dataset(prefix, 1000)


def test_id_outside_the_vocabulary_is_detected_at_the_end_of_a_long_file(tmp_path: Path) -> None:
    ids = np.zeros(3 << 20, np.uint32)
    ids[-1] = 999
    write(tmp_path / "data", [ids], 70_000)
    check_indexed_dataset(tmp_path / "data", 1000)
    with pytest.raises(UserError, match="the id 999, but the vocabulary has 999 ids"):
        check_indexed_dataset(tmp_path / "data", 999)
