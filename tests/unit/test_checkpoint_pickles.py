"""A checkpoint from elsewhere must not be able to run code when it is loaded."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject
from strangers import Payload, pickle_file

from megatron_ipt.checkpointing.pickles import refuse_unsafe_pickle
from megatron_ipt.checkpointing.weights import ASYNC_STRATEGY, StoredWeights, load_weights
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import initialize, shutdown


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    initialize(ParallelConfig(), seed=1)
    yield
    shutdown()


def save(folder: Path, state: object) -> Path:
    folder.mkdir()
    tensor = dist_checkpointing.ShardedTensor.from_rank_offsets("weight", torch.ones(4))
    objects = ShardedObject("state", state, (1,), (0,))
    dist_checkpointing.save({"weight": tensor, "state": objects, "step": 3}, str(folder), **ASYNC_STRATEGY)
    return folder


def load(folder: Path) -> dict[str, Any]:
    tensor = dist_checkpointing.ShardedTensor.from_rank_offsets("weight", torch.zeros(4))
    wanted = {"weight": tensor, "state": ShardedObject("state", None, (1,), (0,))}
    loaded: dict[str, Any] = dist_checkpointing.load(wanted, str(folder))
    return loaded


def test_plain_data_passes(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", {"scale": torch.ones(2), "count": 1})
    refuse_unsafe_pickle(folder)
    assert load(folder)["state"]["count"] == 1


def test_payload_between_the_tensors(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    folder = save(tmp_path / "checkpoint", Payload(proof))
    with pytest.raises(UserError, match="plain data"):
        refuse_unsafe_pickle(folder)
    assert not proof.exists()
    load(folder)
    assert proof.exists(), "megatron-core alone runs it, so the refusal is what protects"


def test_weights_are_not_read_beside_a_payload(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", Payload(tmp_path / "proof"))
    model = torch.nn.Linear(2, 2)
    for read in (
        lambda: StoredWeights(model, folder, {}),
        lambda: load_weights([model], folder),
    ):
        with pytest.raises(UserError, match="plain data"):
            read()
    assert not (tmp_path / "proof").exists()


def test_payload_in_the_metadata(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    folder = save(tmp_path / "checkpoint", None)
    pickle_file(folder / ".metadata", Payload(proof))
    with pytest.raises(UserError, match=r"pathlib\.Path\.touch|getattr"):
        refuse_unsafe_pickle(folder)
    assert not proof.exists()


def test_payload_in_the_common_file(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    folder = save(tmp_path / "checkpoint", None)
    torch.save(Payload(proof), folder / "common.pt")
    with pytest.raises(UserError, match=r"common\.pt"):
        refuse_unsafe_pickle(folder)
    assert not proof.exists()


def test_metadata_that_points_outside(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", None)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = f"../{place.relative_path}"
    buffer = io.BytesIO()
    pickle.dump(metadata, buffer)
    (folder / ".metadata").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="not a file of the checkpoint"):
        refuse_unsafe_pickle(folder)
