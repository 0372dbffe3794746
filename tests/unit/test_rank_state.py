"""The tensors of a sharded state that a local checkpoint holds, and the state that they are loaded into."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import (
    LocalNonpersistentObject,
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
)

from megatron_ipt.checkpointing.rank_state import copy_to_host, describe, fill, objects_in


def state(value: float) -> dict[str, Any]:
    """A state of a model and an optimizer, filled with `value`."""
    sharded = ShardedTensor.from_rank_offsets("weight", torch.full((2, 3), value), (0, 1, 4))
    fused = ShardedTensorFactory("fused", torch.full((4,), value, dtype=torch.bfloat16), lambda *_: {}, lambda _: None)
    scales = ShardedObject("scales", {"amax": torch.full((2,), value)}, (1,), (0,))
    optimizer = {0: [sharded, 7], "params": LocalNonpersistentObject([value])}
    return {"model": {"fused": fused, "scales": scales}, "optimizer": optimizer}


def test_saved_tensors_are_copies_by_name() -> None:
    given = state(1.0)
    copies = copy_to_host(given)
    given["model"]["fused"].data.zero_()
    given["model"]["scales"].data["amax"].zero_()
    given["optimizer"][0][0].data.zero_()
    assert {name: (tensor.tolist(), tensor.dtype) for name, tensor in copies.items()} == {
        "/model/fused": ([1.0] * 4, torch.bfloat16),
        "object|scales/shard_0_1|amax": ([1.0] * 2, torch.float32),
        "/optimizer/0/0": ([[1.0] * 3] * 2, torch.float32),
    }


def test_loading_fills_the_tensors_in_place() -> None:
    saved = copy_to_host(state(1.0))
    into = state(0.0)
    parameter = torch.nn.Parameter(into["model"]["fused"].data)
    into["model"]["fused"].data = parameter
    loaded = fill(into, list(saved), saved.__getitem__)
    assert loaded["model"]["fused"] is parameter
    assert parameter.tolist() == [1.0] * 4
    assert loaded["optimizer"][0][0] is into["optimizer"][0][0].data
    assert loaded["optimizer"][0][0].tolist() == [[1.0] * 3] * 2
    assert loaded["optimizer"][0][1] == 7
    assert loaded["optimizer"]["params"] == [0.0]
    assert {name: tensor.tolist() for name, tensor in loaded["model"]["scales"].items()} == {"amax": [1.0, 1.0]}
    assert objects_in(list(saved)) == {"scales/shard_0_1"}


def model(offset: int = 0) -> dict[str, Any]:
    fused = ShardedTensorFactory("fused", torch.ones(4), lambda *_: {}, lambda _: None)
    return {"weight": ShardedTensor.from_rank_offsets("weight", torch.ones(2, 3), (0, offset, 4)), "fused": fused}


RANGES = [["weight", 0, 6]]


@pytest.mark.parametrize(
    ("other", "ranges"),
    [
        (model(), [["weight", 0, 5]]),
        (model(offset=1), RANGES),
        ({"weight": model()["weight"]}, RANGES),
        ({"weight": model()["weight"], "other": model()["fused"]}, RANGES),
        ({**model(), "fused": ShardedTensor.from_rank_offsets("fused", torch.ones(4))}, RANGES),
        ({**model(), "fused": replace(model()["fused"], data=torch.ones(4).bfloat16())}, RANGES),
        ({**model(), "fused": replace(model()["fused"], data=torch.ones(5))}, RANGES),
        ({**model(), "fused": replace(model()["fused"], key="key")}, RANGES),
    ],
    ids=["ranges", "place", "fewer", "name", "whole", "type", "shape", "key"],
)
def test_description_differs_with_the_tensors(other: dict[str, Any], ranges: list[Any]) -> None:
    assert describe(other, ranges) != describe(model(), RANGES)


def test_description_does_not_depend_on_values_order_or_scales() -> None:
    expected = describe(model(), RANGES)
    others = dict(reversed(model().items()))
    others["weight"].data.zero_()
    assert describe({**others, "scales": ShardedObject("scales", {}, (1,), (0,))}, RANGES) == expected
    assert len(expected) == 64
