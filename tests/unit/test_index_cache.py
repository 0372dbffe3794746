"""The index cache: damaged or foreign files are rebuilt and never executed, complete ones are kept."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_tokenizers import write_gpt2_like
from strangers import Payload, pickle_file

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import BlendEntry, DataConfig, PretrainConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.data.index_cache import ensure_indices
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import shutdown
from megatron_ipt.parallel.single_process import acting_as_single_process
from megatron_ipt.training.datasets import open_validation_sets, read_token_ids


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    shutdown()


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    lengths = np.arange(1, 60)
    with IndexedWriter(tmp_path / "data", 1000) as writer:
        writer.add(np.arange(lengths.sum(), dtype=np.uint32) % 1000, lengths)
    return tmp_path / "data"


def read(prefix: Path, cache: Path, **settings: Any) -> list[list[int]]:
    given = {"split": "9,1,0", "seq_length": 16, **settings}
    data = DataConfig(tokenizer="", blend=[BlendEntry(prefix=str(prefix))], **given)
    train, _ = build_datasets(
        data,
        TokenIds(1000, 999, {"data": "one"}),
        train_samples=200,
        valid_samples=4,
        seed=1,
        index_cache=str(cache),
        is_built_on_rank=lambda: True,
    )
    return [train[number]["tokens"].tolist() for number in range(200)]


def written(cache: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in cache.iterdir()}


def test_complete_indices_are_read_and_not_rewritten(prefix: Path, tmp_path: Path) -> None:
    samples = read(prefix, tmp_path / "cache")
    before = written(tmp_path / "cache")
    assert read(prefix, tmp_path / "cache") == samples
    assert written(tmp_path / "cache") == before
    assert len([name for name in before if name.endswith(".npy")]) == 6  # for train and validation
    assert read(prefix, tmp_path / "cache", seq_length=8) != samples
    assert len(written(tmp_path / "cache")) == 2 * len(before)


@pytest.mark.parametrize("damage", ["truncated", "missing", "without a stamp"])
def test_damaged_indices_are_rebuilt(damage: str, prefix: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    samples = read(prefix, cache)
    whole = {file.name: file.read_bytes() for file in cache.iterdir()}
    [stamp] = cache.glob("built_*.json")
    [index] = cache.glob("*train-sample_index.npy")
    if damage == "missing":
        index.unlink()
    else:
        index.write_bytes(whole[index.name][:-8])
    if damage == "without a stamp":  # as after a kill while megatron-core writes in place
        stamp.unlink()
    assert read(prefix, cache) == samples
    assert {file.name: file.read_bytes() for file in cache.iterdir()} == whole


def test_pickle_in_place_of_an_index_is_not_executed(prefix: Path, tmp_path: Path) -> None:
    cache, marker = tmp_path / "cache", tmp_path / "it_ran"
    samples = read(prefix, cache)
    for index in cache.glob("*.npy"):
        size = index.stat().st_size
        pickle_file(index, Payload(marker))
        index.write_bytes(index.read_bytes().ljust(size, b"\0"))
    assert read(prefix, cache) == samples
    assert not marker.exists()


def test_unwritable_cache_is_reported(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="it cannot be written") as caught:
        read(prefix, tmp_path / "file" / "cache")
    assert caught.value.problems[0].field == "data.index_cache"


def test_only_the_cache_is_blamed_on_the_cache(tmp_path: Path) -> None:
    """Too many open files, or data that cannot be read, would not be mended by another folder for the cache."""

    def failing(error: OSError) -> Callable[[str], None]:
        def build(_: str) -> None:
            raise error

        return build

    for error in (OSError(errno.EMFILE, "Too many open files"), OSError(errno.EACCES, "denied", "/data/books.bin")):
        with pytest.raises(OSError) as caught:
            ensure_indices(tmp_path / "cache", {}, failing(error))
        assert caught.value is error
    for error in (OSError(errno.ENOSPC, "full"), OSError(errno.EACCES, "denied", str(tmp_path / "cache" / "x.npy"))):
        with pytest.raises(UserError, match="it cannot be written"):
            ensure_indices(tmp_path / "cache", {}, failing(error))


def test_failure_is_reported_though_its_folder_is_gone(tmp_path: Path) -> None:
    def build(folder: str) -> None:
        shutil.rmtree(folder)
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(UserError, match=r"it cannot be written: .*full"):
        ensure_indices(tmp_path, {}, build)


def test_training_keeps_no_list_of_all_documents(prefix: Path, tmp_path: Path) -> None:
    data = DataConfig(tokenizer="", blend=[BlendEntry(prefix=str(prefix))], split="9,1,0", seq_length=16)
    train, _ = build_datasets(
        data,
        TokenIds(1000, 999, {}),
        train_samples=20,
        valid_samples=0,
        seed=1,
        index_cache=str(tmp_path / "cache"),
        is_built_on_rank=lambda: True,
    )
    built: Any = train
    assert built.indices.size == 0
    assert all(isinstance(index, np.memmap) for index in (built.document_index, built.sample_index))


def test_files_of_a_faster_process_are_kept(tmp_path: Path) -> None:
    def build(folder: str) -> None:
        (Path(folder) / "one.txt").write_text("index")

    def build_slowly(folder: str) -> None:
        ensure_indices(tmp_path, {"of": "one"}, build)  # another process, from start to end
        first.update(inodes(tmp_path))
        build(folder)

    first: dict[str, int] = {}
    ensure_indices(tmp_path, {"of": "one"}, build_slowly)
    assert "one.txt" in first
    assert inodes(tmp_path) == first
    assert not any(entry.is_dir() for entry in tmp_path.iterdir())


def test_identity_does_not_depend_on_the_order_of_its_parts(tmp_path: Path) -> None:
    cache, built = tmp_path / "new" / "cache", list[str]()
    for identity in ({"seed": 1, "length": 16}, {"length": 16, "seed": 1}, {"length": 16, "seed": 2}):
        ensure_indices(cache, identity, built.append)
    assert len(built) == 2
    assert len(list(cache.iterdir())) == 2


def inodes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in folder.iterdir() if file.is_file()}


def test_acting_as_single_process_ends() -> None:
    with pytest.raises(ValueError, match="once"), acting_as_single_process():
        assert not torch.distributed.is_initialized()
        raise ValueError("once")
    assert torch.distributed.is_initialized()


def test_ids_of_other_data_have_another_identity(prefix: Path, tmp_path: Path) -> None:
    write_gpt2_like(tmp_path / "tokenizer")
    given = {"run": str(tmp_path / "run"), "data": {"tokenizer": str(tmp_path / "tokenizer")}}
    config, files = config_from(PretrainConfig, given), [prefix.with_suffix(ending) for ending in (".bin", ".idx")]
    (tmp_path / "weights.json").write_text("{}")

    def identity(*others: Path) -> dict[str, str]:
        stage = Stage("pretrain", Path(config.run), {}, [*files, *others], 1)
        return dict(read_token_ids(config, stage).unique_identifiers)

    before = identity()
    assert identity(tmp_path / "weights.json") == before
    files[0].write_bytes(files[0].read_bytes()[::-1])
    after = identity()
    assert (after["tokenizer"], after["data"] == before["data"]) == (before["tokenizer"], False)


def test_validation_set_that_was_written_again_has_new_indices(prefix: Path, tmp_path: Path) -> None:
    """The identity of the training data, which the cache is asked for first, is the same."""

    def read_set(cache: str) -> list[list[int]]:
        data = {"seq_length": 16, "index_cache": str(tmp_path / cache)}
        given = {
            "run": str(tmp_path / "run"),
            "data": {**data, "tokenizer": "t", "validation_sets": [{"name": "held_out", "prefix": str(prefix)}]},
            "training": {"global_batch_size": 4, "micro_batch_size": 1, "eval_iters": 5, "seed": 3},
        }
        [one] = open_validation_sets(config_from(PretrainConfig, given), TokenIds(1000, 999, {"data": "training"}))
        assert (one.name, one.iterations) == ("held_out", 5)
        return [one.dataset[number]["tokens"].tolist() for number in range(20)]

    before = read_set("cache")
    lengths = np.arange(60, 0, -1)
    with IndexedWriter(prefix, 1000) as writer:
        writer.add(np.arange(lengths.sum(), dtype=np.uint32) % 1000, lengths)
    after = read_set("cache")
    assert after != before
    assert after == read_set("another")


@pytest.mark.parametrize(("split", "absent"), [("0,1,0", "training"), ("1,0,0", "validation")])
def test_split_that_leaves_no_documents_is_refused(split: str, absent: str, prefix: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no documents are left for {absent}"):
        read(prefix, tmp_path / "cache", split=split)
