"""A blend of many datasets under a low limit of open files."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.config.pretrain import BlendEntry, DataConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.data import blends
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.data.open_files import raise_open_files_limit
from megatron_ipt.errors import UserError

DATASETS = 20


@pytest.fixture
def hard_limit() -> Iterator[int]:
    """Lower the soft limit below the number of files of the datasets, and yield the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 2 * DATASETS, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def training_set(folder: Path, names: Sequence[str], split: str, samples: int) -> Any:
    """The training samples of a blend of datasets in `folder`."""
    entries = [BlendEntry(prefix=str(folder / name)) for name in names]
    train, _ = build_datasets(
        DataConfig(tokenizer="", blend=entries, split=split, seq_length=20),
        TokenIds(100, 99, {}),
        train_samples=samples,
        valid_samples=0,
        seed=1,
        index_cache=str(folder / "cache"),
        is_built_on_rank=lambda: True,
    )
    return train


def test_blend_may_open_more_files_than_the_soft_limit(hard_limit: int, tmp_path: Path) -> None:
    before = open_files()
    for number in range(DATASETS):
        with IndexedWriter(tmp_path / f"data{number}", 100) as writer:
            writer.add(np.full(400, number, np.uint32), np.full(10, 40))
    train = training_set(tmp_path, [f"data{number}" for number in range(DATASETS)], "1", 10 * DATASETS)
    read = [int(train[number]["tokens"][0]) for number in range(10 * DATASETS)]
    assert np.bincount(read).tolist() == [10] * DATASETS
    assert open_files() - before > 3 * DATASETS
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)


@pytest.mark.parametrize(("split", "splits"), [("1", 1), ("9,1,0", 2), ("0.9,0.1,0", 2)])
def test_files_of_a_blend_are_counted(split: str, splits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of each dataset and of its loss mask, and three indices of each dataset and split."""
    for name in ("one", "one_loss_mask", "two"):
        with IndexedWriter(tmp_path / name, 100) as writer:
            writer.add(np.full(4000, 1, np.uint32), np.full(100, 40))
    counted = list[int]()
    monkeypatch.setattr(blends, "raise_open_files_limit", lambda count, *_: counted.append(count))
    training_set(tmp_path, ["one", "two"], split, 4)
    assert counted == [3 * 3 + 3 * 2 * splits]


def test_blend_beyond_the_hard_limit_is_refused(hard_limit: int) -> None:
    with pytest.raises(UserError, match=f"the limit of a process is {hard_limit:,}") as caught:
        raise_open_files_limit(hard_limit, "data.blend", "300 datasets")
    assert caught.value.problems[0].field == "data.blend"
    reserved = 64  # for everything else
    most = hard_limit - open_files() - reserved
    raise_open_files_limit(most, "data.blend", "datasets")
    with pytest.raises(UserError, match="the run needs about"):
        raise_open_files_limit(most + 1, "data.blend", "datasets")
