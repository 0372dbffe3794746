"""A model is converted without ever being in memory as a whole; what is written is the same."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from rich.console import Console
from small_models import all_of, write_small_mistral

from megatron_ipt.checkpointing import streamed
from megatron_ipt.checkpointing.contents import record_files
from megatron_ipt.checkpointing.streamed import StreamedModel, write_streamed
from megatron_ipt.checkpointing.weights import ASYNC_STRATEGY, StoredWeights, save_weights, sharded_weights
from megatron_ipt.conversion.core_model import (
    CoreModel,
    build_core_model,
    fill_from_hf,
    hf_tensors,
    in_fp32,
    parts_in_hf,
    stored_in_hf,
)
from megatron_ipt.conversion.hf_config import read_model_config
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.parity import compare_logits
from megatron_ipt.conversion.tensor_checks import ValueCheck
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.parallel.groups import Groups

TOKENS = torch.arange(96).reshape(2, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_mistral(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def in_memory(folder: Path, groups: Groups) -> CoreModel:
    core = build_core_model(read_model_config(folder), groups, bf16=True, seq_length=48)
    fill_from_hf(core, HfWeights(folder))
    return core


@pytest.fixture(scope="module")
def on_meta(folder: Path, groups: Groups) -> CoreModel:
    core = build_core_model(read_model_config(folder), groups, bf16=True, seq_length=48, on_meta=True)
    assert all(parameter.is_meta for parameter in core.chunk.parameters())
    return stored_in_hf(core, HfWeights(folder))


@pytest.fixture(scope="module")
def checkpoint(in_memory: CoreModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a model in memory is saved as."""
    target = tmp_path_factory.mktemp("checkpoint")
    save_weights([in_memory.chunk], target)
    return target


def recording(core: CoreModel, calls: list[list[str]]) -> CoreModel:
    """The same model, with the names of the parameters that are read at a time."""

    def read(names: Sequence[str]) -> dict[str, torch.Tensor]:
        calls.append(list(names))
        return core.read(names)

    return replace(core, stored=read)


def places(names: Sequence[str]) -> set[str]:
    """The layers that parameters belong to; those outside of layers stand for themselves."""
    return {re.sub(r"(layers\.\d+).*", r"\1", name) for name in names}


@pytest.mark.parametrize(("files", "as_views"), [(1, False), (3, True)])
def test_streamed_checkpoint_is_the_same_byte_for_byte(
    files: int,
    as_views: bool,
    on_meta: CoreModel,
    in_memory: CoreModel,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As megatron-core writes it, of tensors in memory; except `.metadata`, in which torch notes a random number."""
    expected, found = tmp_path / "expected", tmp_path / "found"
    expected.mkdir()
    state = {"model": sharded_weights(in_memory.chunk)}
    dist_checkpointing.save(
        state, str(expected), TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=files), **ASYNC_STRATEGY
    )
    check = ValueCheck(torch.bfloat16)
    read = parts_in_hf(on_meta, HfWeights(folder), check)

    def read_view(name: str, first: int, count: int) -> torch.Tensor:
        return torch.cat([torch.ones(7, dtype=torch.bfloat16), read(name, first, count)])[7:]

    model = StreamedModel(sharded_weights(on_meta.chunk), read_view if as_views else read)
    monkeypatch.setattr(streamed, "FILE_BYTES", -(-model.size_bytes() // files))
    drawn = io.StringIO()
    with ProgressDisplay("writing", console=Console(file=drawn, force_terminal=True, width=100)) as progress:
        records = write_streamed(model, found, FinishedFiles(tmp_path), progress)
    assert "100%" in drawn.getvalue()
    assert records == record_files(found, sorted(found.iterdir()))
    assert [record.path for record in records] == sorted(file.name for file in expected.iterdir())
    assert sum(record.path.endswith(".distcp") for record in records) == files
    for record in records:
        if record.path != ".metadata":
            assert (found / record.path).read_bytes() == (expected / record.path).read_bytes()
    loaded = StoredWeights(on_meta.chunk, found)
    assert all(torch.equal(loaded.read([name])[name], value) for name, value in in_memory.parameters().items())


def test_progress_is_shown_while_a_file_is_written(on_meta: CoreModel, folder: Path, tmp_path: Path) -> None:
    read = parts_in_hf(on_meta, HfWeights(folder), ValueCheck(torch.bfloat16))

    def read_slowly(name: str, first: int, count: int) -> torch.Tensor:
        time.sleep(0.05)
        return read(name, first, count)

    model = StreamedModel(sharded_weights(on_meta.chunk), read_slowly)
    drawn = io.StringIO()
    with ProgressDisplay("writing", console=Console(file=drawn, force_terminal=True, width=100)) as progress:
        write_streamed(model, tmp_path / "found", FinishedFiles(tmp_path), progress)
    shown = [int(percent) for percent in re.findall(r"(\d+)%", drawn.getvalue())]
    assert shown == sorted(shown)
    assert any(0 < percent < 100 for percent in shown)


def test_after_a_failure_no_other_file_is_begun(
    on_meta: CoreModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = StreamedModel(
        sharded_weights(on_meta.chunk), parts_in_hf(on_meta, HfWeights(folder), ValueCheck(torch.bfloat16))
    )
    monkeypatch.setattr(streamed, "FILE_BYTES", -(-whole.size_bytes() // 12))
    read = list[str]()

    def fail(name: str, first: int, count: int) -> torch.Tensor:
        read.append(name)
        if len(read) == 1:
            raise OSError("the first is not readable")
        time.sleep(0.5)
        return whole.read(name, first, count)

    finished = FinishedFiles(tmp_path)
    with ProgressDisplay("writing") as progress, pytest.raises(OSError, match="the first is not readable"):
        write_streamed(replace(whole, read=fail), tmp_path / "found", finished, progress)
    assert len(list((tmp_path / "found").glob("*.distcp"))) < 6  # those that were begun, on a slow machine a few more


def test_only_a_layer_of_a_checkpoint_is_read_at_a_time(
    on_meta: CoreModel, in_memory: CoreModel, checkpoint: Path
) -> None:
    calls: list[list[str]] = []
    stored = recording(replace(on_meta, stored=StoredWeights(on_meta.chunk, checkpoint).read), calls)
    found = hf_tensors(stored, torch.bfloat16)
    names = sorted(found.shapes)
    expected = all_of(hf_tensors(in_memory, torch.bfloat16))
    assert all(torch.equal(part, expected[name]) for name, part in zip(names, found.read(names), strict=True))
    assert sorted(name for call in calls for name in call) == sorted(on_meta.parameters())
    assert all(len(places(call)) == 1 for call in calls)
    assert len(calls) == 3 + on_meta.config.num_layers


def test_logits_are_compared_with_one_layer_in_memory(on_meta: CoreModel, folder: Path, groups: Groups) -> None:
    core = replace(on_meta, stored=None)
    exact = in_fp32(stored_in_hf(core, HfWeights(folder)), groups, rounded_to=torch.bfloat16, seq_length=48)
    parity = compare_logits(exact, folder, TOKENS, 1e-4)
    assert not parity.passed  # the folder is in fp32
    assert 0 < parity.max_abs_logit_difference < 0.5
    calls: list[list[str]] = []
    whole = build_core_model(on_meta.config, groups, bf16=False, seq_length=48, on_meta=True)
    streamed = recording(stored_in_hf(whole, HfWeights(folder)), calls)
    assert compare_logits(streamed, folder, TOKENS, 1e-4).passed
    assert all(parameter.is_meta for parameter in streamed.chunk.parameters())
    assert all(len(places(call)) == 1 for call in calls)
    assert sorted(name for call in calls for name in call) == sorted(on_meta.parameters())
