"""Checkpoints of Megatron-LM: padding removed, ranks joined, and nothing in them executed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron_lm_files import ARGUMENTS, PADDED, SHAPE, VOCABULARY, write_legacy, write_torch_dist
from small_models import write_small_mistral
from strangers import Payload

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, resolve_checkpoint
from megatron_ipt.checkpointing.weights import load_weights
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion import mlm_to_mcore
from megatron_ipt.conversion.core_model import CoreModel, build_core_model
from megatron_ipt.conversion.megatron_lm.inert import Inert, read_inert
from megatron_ipt.conversion.megatron_lm.legacy import join_ranks
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import unwrapped
from megatron_ipt.parallel.groups import Groups

Write = Callable[[Path, CoreModel, dict[str, Any]], None]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_mistral(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def padded(groups: Groups) -> CoreModel:
    """A model with random weights and the embedding that Megatron-LM would have padded."""
    core = build_core_model(ModelConfig(family="llama", vocab_size=PADDED, **SHAPE), groups, bf16=False, seq_length=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in core.parameters().values():
            parameter.normal_(generator=generator)
    return core


def convert(source: Path, tokenizer: Path, output: Path, groups: Groups) -> list[str]:
    config = ConvertConfig(direction="mlm-to-mcore", input=str(source), output=str(output), tokenizer=str(tokenizer))
    lines: list[str] = []
    mlm_to_mcore.convert(config, mlm_to_mcore.open_stage(config), groups, lines.append)
    return lines


def parallel_layouts() -> list[Any]:
    layouts = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 2, 2)]
    return [
        pytest.param(
            lambda folder, core, arguments, layout=layout: write_legacy(folder, core, arguments, *layout),
            id="legacy-tp{}pp{}vpp{}".format(*layout),
        )
        for layout in layouts
    ]


@pytest.mark.parametrize("write", [pytest.param(write_torch_dist, id="torch_dist"), *parallel_layouts()])
def test_weights_come_without_padding(
    write: Write, padded: CoreModel, tokenizer: Path, groups: Groups, tmp_path: Path
) -> None:
    write(tmp_path / "source", padded, ARGUMENTS)
    [line] = convert(tmp_path / "source", tokenizer, tmp_path / "run", groups)
    assert "288 rows, 259 kept" in line
    checkpoint = resolve_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    model = padded.config.model_copy(update={"vocab_size": VOCABULARY})
    found = build_core_model(model, groups, bf16=False, seq_length=1)
    load_weights([found.chunk], checkpoint)
    expected = padded.parameters()
    for name, parameter in found.parameters().items():
        assert torch.equal(parameter, expected[name][: len(parameter)]), name
    assert found.parameters().keys() == expected.keys()


class Call:
    """Unpickled, it calls a function of Python's own."""

    def __init__(self, proof: Path) -> None:
        self.code = f"open({str(proof)!r}, 'x')"

    def __reduce__(self) -> Any:
        return exec, (self.code,)


@pytest.mark.parametrize("write", [write_torch_dist, write_legacy])
def test_bf16_stays_bf16(write: Write, padded: CoreModel, tokenizer: Path, groups: Groups, tmp_path: Path) -> None:
    half = build_core_model(padded.config, groups, bf16=True, seq_length=1)
    unwrapped(half.chunk).load_state_dict(unwrapped(padded.chunk).state_dict())
    write(tmp_path / "source", half, {**ARGUMENTS, "bf16": True, "vocab_size": PADDED})
    convert(tmp_path / "source", tokenizer, tmp_path / "run", groups)
    checkpoint = resolve_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert load_recorded(PretrainConfig, checkpoint / RUN_CONFIG_NAME).precision.bf16
    found = build_core_model(padded.config, groups, bf16=True, seq_length=1)
    load_weights([found.chunk], checkpoint)
    expected = half.parameters()
    assert all(torch.equal(parameter, expected[name]) for name, parameter in found.parameters().items())


@pytest.mark.parametrize("write", [write_torch_dist, write_legacy])
@pytest.mark.parametrize(
    ("payload", "outcome"),
    [(Call, nullcontext()), (Payload, pytest.raises(UserError, match="unrecognized function"))],
)
def test_nothing_in_a_checkpoint_is_executed(
    payload: Callable[[Path], object],
    outcome: AbstractContextManager[object],
    write: Write,
    padded: CoreModel,
    tokenizer: Path,
    groups: Groups,
    tmp_path: Path,
) -> None:
    proof = tmp_path / "proof"
    write(tmp_path / "source", padded, {**ARGUMENTS, "wandb_project": payload(proof)})
    with outcome:
        convert(tmp_path / "source", tokenizer, tmp_path / "run", groups)
    assert not proof.exists()
    files = [*(tmp_path / "source").rglob("common.pt"), *(tmp_path / "source").rglob("model_optim_rng.pt")]
    for file in files:
        torch.load(file, weights_only=False)
        assert proof.exists(), "unpickled without restraint, it runs"
        proof.unlink()


@pytest.mark.parametrize("name", ["common.pt", ".metadata"])
def test_payload_in_the_place_of_a_file(
    name: str, padded: CoreModel, tokenizer: Path, groups: Groups, tmp_path: Path
) -> None:
    write_torch_dist(tmp_path / "source", padded, ARGUMENTS)
    proof = tmp_path / "proof"
    with (tmp_path / "source" / "iter_0000003" / name).open("wb") as handle:
        torch.save(Payload(proof), handle)
    with pytest.raises(UserError):
        convert(tmp_path / "source", tokenizer, tmp_path / "run", groups)
    assert not proof.exists()


class Stranger:
    """A class of another program."""

    def __init__(self) -> None:
        self.size = 3


def test_unknown_classes_are_read_as_what_they_hold(tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    torch.save({"stranger": Stranger(), "function": print, "weight": torch.ones(2)}, file)
    allowed = torch.serialization.get_safe_globals()
    found = read_inert(file, file)
    assert isinstance(found["stranger"], Inert)
    assert found["stranger"].state == {"size": 3}
    assert issubclass(found["function"], Inert)
    assert found["function"] is not print
    assert found["weight"].tolist() == [1, 1]
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "common.pt"
    file.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"common\.pt"):
        read_inert(file, file)


def without_rank(folder: Path) -> None:
    shutil.rmtree(folder / "release" / "mp_rank_01_000")


def with_bias(folder: Path) -> None:
    for file in folder.rglob("model_optim_rng.pt"):
        state = torch.load(file, weights_only=False)
        state["model"]["decoder.layers.0.mlp.linear_fc2.bias"] = torch.ones(48)
        torch.save(state, file)


def with_former_classes(folder: Path) -> None:
    for file in folder.rglob("model_optim_rng.pt"):
        state = torch.load(file, weights_only=False)
        torch.save({**state, "model": {"language_model": {"embedding": {}}}}, file)


def of_former_version(folder: Path) -> None:
    for file in folder.rglob("model_optim_rng.pt"):
        torch.save({**torch.load(file, weights_only=False), "checkpoint_version": 1.0}, file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_rank, "tensor rank 1, pipeline rank 0"),
        (with_bias, r"unknown decoder\.layers\.0\.mlp\.linear_fc2\.bias"),
        (with_former_classes, "former classes"),
        (of_former_version, "version 1"),
    ],
)
def test_ranks_that_do_not_make_the_model(
    change: Callable[[Path], None], said: str, padded: CoreModel, tokenizer: Path, groups: Groups, tmp_path: Path
) -> None:
    write_legacy(tmp_path / "source", padded, ARGUMENTS)
    change(tmp_path / "source")
    with pytest.raises(UserError, match=said):
        convert(tmp_path / "source", tokenizer, tmp_path / "run", groups)


@pytest.mark.parametrize("write", [write_torch_dist, write_legacy])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ffn_hidden_size": 128}, r"linear_fc1"),
        ({"num_layers": 2}, r"layers"),
        ({"vocab_size": 300}, r"word_embeddings"),
        ({"untie_embeddings_and_output_weights": False, "qk_layernorm": True}, r"q_layernorm"),
    ],
)
def test_tensors_that_do_not_fit_the_arguments(
    write: Write,
    arguments: dict[str, Any],
    said: str,
    padded: CoreModel,
    tokenizer: Path,
    groups: Groups,
    tmp_path: Path,
) -> None:
    write(tmp_path / "source", padded, {**ARGUMENTS, **arguments})
    with pytest.raises(UserError, match=said):
        convert(tmp_path / "source", tokenizer, tmp_path / "run", groups)


def test_layers_stored_one_by_one(padded: CoreModel, tokenizer: Path, groups: Groups, tmp_path: Path) -> None:
    model: Any = unwrapped(padded.chunk)
    model.sharded_state_dict = lambda: type(model).sharded_state_dict(model, metadata={"non_homogeneous_layers": True})
    write_torch_dist(tmp_path / "source", padded, ARGUMENTS)
    convert(tmp_path / "source", tokenizer, tmp_path / "run", groups)


def test_gates_and_ups_are_joined_apart() -> None:
    gate, up = torch.arange(4.0)[:, None], 10 + torch.arange(4.0)[:, None]
    parts = [torch.cat([gate[:2], up[:2]]), torch.cat([gate[2:], up[2:]])]
    assert torch.equal(join_ranks("decoder.layers.0.mlp.linear_fc1.weight", parts), torch.cat([gate, up]))
