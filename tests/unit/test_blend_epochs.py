"""Epochs in a blend: converted to whole samples and drawn exactly, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import DataConfig, TrainingConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.errors import UserError
from megatron_ipt.mixing.blend_epochs import count_epochs, describe_repeats, resolve_epochs
from megatron_ipt.parallel.groups import shutdown

SEQ_LENGTH, STEP = 32, 8
TOKENS = {"large": 64_000, "small": 6_400, "tiny": 1_600}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write datasets with given numbers of tokens, each with a distinct id."""
    folder = tmp_path_factory.mktemp("datasets")
    for number, (name, tokens) in enumerate(TOKENS.items()):
        with IndexedWriter(folder / name, 100) as writer:
            writer.add(np.full(tokens, number, np.uint32), np.full(tokens // 40, 40))
    return folder


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    shutdown()


def blend(folder: Path, **shares: dict[str, Any]) -> DataConfig:
    entries = [{"prefix": str(folder / name), **share} for name, share in shares.items()]
    return config_from(DataConfig, {"tokenizer": "t", "blend": entries, "split": "1", "seq_length": SEQ_LENGTH})


def run_of(samples: int) -> TrainingConfig:
    assert samples % STEP == 0
    return TrainingConfig(train_iters=samples // STEP, global_batch_size=STEP)


def drawn(data: DataConfig, samples: int, cache: Path) -> list[int]:
    """Count the samples that megatron-core takes from each dataset in a run."""
    train, _ = build_datasets(
        data,
        TokenIds(100, 99, {}),
        train_samples=samples,
        valid_samples=0,
        seed=1,
        index_cache=str(cache),
        is_built_on_rank=lambda: True,
    )
    sources = [int(train[number]["tokens"][0]) for number in range(samples)]
    return np.bincount(sources, minlength=len(TOKENS)).tolist()


@pytest.mark.usefixtures("one_rank")
def test_entries_with_epochs_come_first_and_weights_share_the_rest(folder: Path, tmp_path: Path) -> None:
    samples = 2_000
    data = blend(folder, large={"weight": 3}, small={"epochs": 2.5}, tiny={"weight": 1})
    settled = resolve_epochs(data, run_of(samples))
    small = round(2.5 * TOKENS["small"] / SEQ_LENGTH)
    rest = samples - small
    assert [entry.weight for entry in settled.blend] == [rest * 3 / 4, small, rest / 4]
    assert drawn(settled, samples, tmp_path / "cache") == [rest * 3 // 4, small, rest // 4]


@pytest.mark.usefixtures("one_rank")
def test_blend_of_epochs_only_must_match_the_length_of_the_run(folder: Path, tmp_path: Path) -> None:
    data = blend(folder, large={"epochs": 1}, small={"epochs": 4}, tiny={"epochs": 2})
    with pytest.raises(UserError, match=r"set training\.train_iters=362") as caught:
        resolve_epochs(data, run_of(100 * STEP))
    assert caught.value.problems[0].value == "92,800 tokens"
    samples = 362 * STEP
    counts = drawn(resolve_epochs(data, run_of(samples)), samples, tmp_path / "cache")
    assert sum(counts) == samples
    read = np.array(counts) * SEQ_LENGTH / np.array(list(TOKENS.values()))
    assert read == pytest.approx([1, 4, 2], rel=0.01)


def test_blend_without_epochs_is_unchanged(folder: Path) -> None:
    data = blend(folder, large={"weight": 0.7}, small={})
    assert resolve_epochs(data, run_of(800)) is data
    assert [entry.share for entry in data.blend] == [0.7, 1.0]


def test_entry_without_weight_and_epochs_has_weight_one(folder: Path) -> None:
    settled = resolve_epochs(blend(folder, large={}, small={"epochs": 1}, tiny={}), run_of(1_000))
    assert [entry.weight for entry in settled.blend] == [400, 200, 400]


@pytest.mark.parametrize("split", ["0,1,0", "all"])
def test_epochs_need_training_documents(split: str, folder: Path) -> None:
    data = blend(folder, large={"weight": 1}, small={"epochs": 1}).model_copy(update={"split": split})
    with pytest.raises(UserError, match=r"data\.split"):
        resolve_epochs(data, run_of(1_000))


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"large": {"weight": 1, "epochs": 1}, "small": {"weight": 1}}, "give one of them"),
        ({"large": {"epochs": 2}, "small": {"weight": 1}}, "raise training.train_iters"),
        ({"large": {"weight": 1}, "small": {"weight": 1e-9}, "tiny": {"epochs": 1}}, "less than one of"),
    ],
)
def test_contradictions_are_reported(shares: dict[str, dict[str, Any]], told: str, folder: Path) -> None:
    with pytest.raises(UserError, match=told) as caught:
        resolve_epochs(blend(folder, **shares), run_of(1_000))
    assert all(problem.field.startswith("data.blend") for problem in caught.value.problems)


def test_ramp_up_is_part_of_the_length(folder: Path) -> None:
    """Steps of 4 samples until more than 40 are read, then 8: the settings that the error suggests are taken."""
    data = blend(folder, tiny={"epochs": 4})
    ramp = TrainingConfig(train_iters=100, global_batch_size=STEP, rampup_batch_size=[4, 4, 40])
    with pytest.raises(UserError, match=r"train_iters=30,") as caught:
        resolve_epochs(data, ramp)
    assert caught.value.problems[0].reason == "its epochs amount to 200 samples, but the run takes 760"
    resolve_epochs(data, ramp.model_copy(update={"train_iters": 30}))


def test_data_that_are_read_often_are_named(folder: Path) -> None:
    """A run of 1,000 samples of 32 tokens: 0.4 times large, 0.8 small, 4.9 tiny; epochs that are asked for are not."""
    data = blend(folder, large={"weight": 0.6}, small={"weight": 0.16}, tiny={"weight": 0.24})
    (warning,) = describe_repeats(data, count_epochs(data, run_of(1_000)))
    assert f"{folder / 'tiny'} is read 4.8 times" in warning
    asked = blend(folder, large={"weight": 1}, tiny={"epochs": 5})
    assert list(describe_repeats(asked, count_epochs(asked, run_of(1_000)))) == []
