"""States of callbacks in a checkpoint are JSON and safetensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from megatron_ipt.checkpointing.callback_states import (
    STATES_NAME,
    TENSORS_NAME,
    read_callback_states,
    write_callback_states,
)
from megatron_ipt.errors import UserError


def test_states_are_read_as_they_were_written(tmp_path: Path) -> None:
    ordered = torch.arange(6).view(2, 3)
    states = {
        "one": {"count": 3, "history": [1.5, float("inf")], "nested": {"key": None}, "table": ordered.T},
        "two": {"table": torch.tensor(0.1, dtype=torch.bfloat16)},
    }
    write_callback_states(tmp_path, states)
    read = read_callback_states(tmp_path)
    assert torch.equal(read["one"].pop("table"), states["one"].pop("table"))
    assert torch.equal(read["two"].pop("table"), states["two"].pop("table"))
    assert read == states


def test_state_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a state cannot be saved.*set"):
        write_callback_states(tmp_path, {"one": {"seen": {1, 2}}})


@pytest.mark.parametrize("name", [STATES_NAME, TENSORS_NAME])
def test_pickle_in_place_of_states_is_refused(name: str, tmp_path: Path) -> None:
    write_callback_states(tmp_path, {"one": {"table": torch.ones(2)}})
    (tmp_path / name).write_bytes(pickle.dumps({"one": {}}))
    with pytest.raises(UserError, match="does not contain callback states"):
        read_callback_states(tmp_path)
